#!/usr/bin/env bash
# Fetches the photographs of configs/small.py and trains its two stages. If interrupted, rerun it.
# Set RUNS to train elsewhere than in runs, PYTHON to use another Python than that of .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs}
if [ -z "${PYTHON:-}" ]; then
    . scripts/environment.sh ""
    PYTHON=.venv/bin/python
fi
export PYTHONPATH=$PWD

"$PYTHON" scripts/small_photos.py
"$PYTHON" -m glinpaint_jax.main --config configs/small_start.py --workdir "$runs/small_start"
"$PYTHON" -m glinpaint_jax.main --config configs/small.py --workdir "$runs/small" \
    --config.init_from="$runs/small_start"
