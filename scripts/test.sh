#!/usr/bin/env bash
# Runs the linter and all tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh test

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
