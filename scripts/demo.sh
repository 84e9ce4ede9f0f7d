#!/usr/bin/env bash
# Trains a tiny model on scikit-image's photographs, through all three phases, then compares it
# with what needs no training, also on held-out photographs. Writes to runs/demo.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh ""

.venv/bin/python -m glinpaint_jax.main --config configs/demo.py --workdir runs/demo
echo
.venv/bin/python -m glinpaint_jax evaluate --config configs/demo.py --checkpoint runs/demo \
    --method smooth --method telea --method navier-stokes --method patches \
    --json runs/demo/scores.json
cat <<'TEXT'

Pictures: runs/demo/samples (rows: masked, completed, original)
Curves: .venv/bin/tensorboard --logdir runs/demo
Next:
  train on a folder of your own photographs, hundreds or more:
    .venv/bin/python -m glinpaint_jax.main --config configs/demo.py --workdir runs/mine \
        --config.data.source=folder:/your/photographs --config.num_steps=20000 \
        --config.phases.completion_end=12000 --config.phases.discriminator_end=13000
  train the full-size model on accelerators:
    .venv/bin/python -m glinpaint_jax.main --config configs/places.py
TEXT
