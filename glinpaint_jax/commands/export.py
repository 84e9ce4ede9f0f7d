"""Writes trained weights for other tools.

  mmagic       .pth file that MMagic's generator and discriminators load strictly
  safetensors  the same keys
  torchscript  image and mask -> completed image; what IOPaint takes
  onnx         the same, mask float
  stablehlo    the same for jax.export, arrays NHWC; runs on cpu, cuda and tpu

Images are RGB in 0..1, not masked beforehand; masks are 1 in the hole; batch and size are free,
sides multiples of 4. The written file is run and compared with JAX before it is put in place.
"""

import argparse
import sys
from pathlib import Path

from glinpaint_jax.commands import cli
from glinpaint_jax.distributed import keep_compiled_programs
from glinpaint_jax.interop.export import FORMATS, TOLERANCE, export_weights
from glinpaint_jax.interop.mmagic import mmagic_differences
from glinpaint_jax.weights import load_weights


def main(arguments: argparse.Namespace) -> None:
    keep_compiled_programs()  # alone: an export joins no other processes
    weights = load_weights(arguments.checkpoint, arguments.ema)
    if arguments.format == "mmagic":
        for note in mmagic_differences(weights.config):
            print(f"note: {note}", file=sys.stderr)
    difference = export_weights(weights, arguments.format, arguments.output)
    megabytes = arguments.output.stat().st_size / 1e6
    print(
        f"wrote {arguments.output} ({megabytes:.1f} MB): differs from JAX by at most "
        f"{difference:.1e} (allowed {TOLERANCE:.0e})"
    )


if __name__ == "__main__":
    parser = cli.ArgumentParser("export", __doc__)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a workdir, a step, or a .pth file"
    )
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, metavar="FILE", required=True, help="a new file")
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="the generator's averaged weights, or its last ones [averaged where there are some]",
    )
    cli.run_command(main, parser)
