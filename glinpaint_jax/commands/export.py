"""Writes trained weights in a format that other tools read.

  mmagic       .pth file that MMagic's generator and discriminators load strictly
  safetensors  the same keys, and our config; to publish: hf upload USER/REPO model.safetensors
  torchscript  function of image and mask that returns the completed image; IOPaint loads it
  onnx         the same; the mask is float
  stablehlo    the same for jax.export, with NHWC arrays; runs on cpu, cuda and tpu

Images are RGB in 0..1 with the hole not yet filled; masks are 1 in the hole. Batch and size are
free; sides must be multiples of 4. Before the file is put in place, it is run and compared with
JAX.

With --pipeline, an onnx file does the whole task for any size: image uint8 [h, w, 3] and mask uint8
[h, w], above 127 = hole -> completed uint8 [h, w, 3].
"""

import argparse
import sys

from glinpaint_jax.commands import cli
from glinpaint_jax.downloads import CHECKPOINT_HELP
from glinpaint_jax.errors import UserError

FORMATS = ("mmagic", "safetensors", "torchscript", "onnx", "stablehlo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    add("--format", choices=FORMATS, required=True)
    add("--pipeline", action="store_true", help="onnx: the whole task, pixels in, pixels out")
    add("--float16", action="store_true", help="with --pipeline: a file of half the size")
    add("--output", type=cli.local_path, metavar="FILE", required=True, help="a new file")
    add(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="the generator's averaged or last weights [averaged if the checkpoint has them]",
    )


def main(arguments: argparse.Namespace) -> None:
    from glinpaint_jax.interop.export import FORMATS as EXPORTS
    from glinpaint_jax.interop.export import export_weights
    from glinpaint_jax.interop.mmagic import mmagic_differences
    from glinpaint_jax.processes import start
    from glinpaint_jax.weights import load_weights

    kind = arguments.format + "-pipeline" * arguments.pipeline + "-float16" * arguments.float16
    if kind not in EXPORTS:
        raise UserError("--pipeline needs --format onnx, --float16 needs --pipeline")
    start()
    weights = load_weights(arguments.checkpoint, arguments.ema)
    difference = export_weights(weights, kind, arguments.output)
    if arguments.format == "mmagic":
        for note in mmagic_differences(weights.config):
            print(f"note: {note}", file=sys.stderr)
    megabytes = arguments.output.stat().st_size / 1e6
    print(
        f"wrote {arguments.output} ({megabytes:.1f} MB): differs from JAX by at most "
        f"{difference:.1e} (allowed {EXPORTS[kind].tolerance:.0e})"
    )
