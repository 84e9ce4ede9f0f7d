#!/usr/bin/env bash
# Measures one GPU or TPU, trains on it, and writes a report: see docs/benchmarks.md.
#
#   bash scripts/benchmarks/accelerator.sh [--minutes 25] [--train DIR] [--output DIR] [--wheels DIR]
#   bash scripts/benchmarks/accelerator.sh --rehearse     # tries everything on a CPU, tiny
#
# Uses .venv if there is one, else python3, or $PYTHON. Needs no network.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) found, but Python 3.11 or newer is needed; set PYTHON=..." >&2
    exit 1
}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$root/scripts/benchmarks/accelerator.py" "$@"
