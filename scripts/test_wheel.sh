#!/usr/bin/env bash
# Builds the sdist and the wheel, checks them, and uses the wheel in an empty folder. Takes 3 minutes.
#
#   bash scripts/test_wheel.sh [FOLDER]    # FOLDER keeps both; PYTHON=python3.13 for another Python
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1

"${PYTHON:-python3}" -m venv "$work/tools"
"$work/tools/bin/pip" install build twine
"$work/tools/bin/python" -m build --outdir "$work/dist" . > "$work/build.log" ||
    { cat "$work/build.log" >&2; exit 1; }
"$work/tools/bin/twine" check --strict "$work"/dist/*
"$work/tools/bin/python" - "$work"/dist/*.whl <<'PYTHON'
import pathlib, sys, zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
wanted = {str(path) for path in pathlib.Path("glinpaint_jax").rglob("*") if path.is_file()}
wanted |= {f"glinpaint_jax/{path}" for path in pathlib.Path("configs").glob("*.py")}
missing = sorted(name for name in wanted - set(names) if "__pycache__" not in name)
sys.exit(f"not in the wheel: {missing}" if missing else 0)
PYTHON
[ $# -eq 0 ] || cp "$work"/dist/* "$1"

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install "$work"/dist/*.whl
mkdir "$work/empty"
cd "$work/empty"
export PATH="$work/venv/bin:$PATH" JAX_PLATFORMS=cpu
set -x
python --version
glinpaint --help
echo 'from glinpaint_jax.configs.demo import get_config' > mine.py
python -c 'import skimage, PIL.Image; PIL.Image.fromarray(skimage.data.coffee()).save("a.png")
PIL.Image.new("L", (40, 40), 255).save("white.png")
mask = PIL.Image.new("L", (600, 400)); mask.paste(255, (200, 100, 240, 140)); mask.save("mask.png")'
glinpaint complete --image a.png --mask mask.png --output smooth.png
tiny="--config.num_steps=3 --config.global_batch_size=2 --config.model.width=4
    --config.data.eval_images=2 --config.data.num_workers=2 --config.phases.completion_end=1
    --config.phases.discriminator_end=2 --config.optimizer.schedule=constant"
glinpaint train --config mine.py $tiny 2>&1 | tail -2
mkdir hub
glinpaint export runs/mine --format safetensors --output hub/model.safetensors
glinpaint complete --checkpoint hub --image a.png --mask mask.png --output filled.png
python -m glinpaint_jax evaluate --checkpoint hub --config demo --limit 2
(cd runs/mine/checkpoints/3 && sha256sum --check --quiet manifest.sha256)
[ "$(glinpaint export hub --format onnx --output x.onnx 2>&1)" = \
    "error: this needs torch, which is not installed; pip install 'glinpaint_jax[torch]'" ]
