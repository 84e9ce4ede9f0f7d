"""Writes trained weights in a format that other tools read.

  mmagic       .pth file that MMagic's generator and discriminators load strictly
  safetensors  the same keys
  torchscript  function of image and mask that returns the completed image; IOPaint loads it
  onnx         the same; the mask is float
  stablehlo    the same for jax.export, with NHWC arrays; runs on cpu, cuda and tpu
  hub          folder for the Hugging Face Hub: safetensors, config.json and a model card

Images are RGB in 0..1 with the hole not yet filled; masks are 1 in the hole. Batch and size are
free; sides must be multiples of 4. Before the file is put in place, it is run and compared with
JAX.
"""

import argparse
import sys
from pathlib import Path

from glinpaint_jax.commands import cli
from glinpaint_jax.downloads import CHECKPOINT_HELP
from glinpaint_jax.files import absolute, as_path

FORMATS = ("mmagic", "safetensors", "torchscript", "onnx", "stablehlo", "hub")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--output",
        type=cli.local_path,
        metavar="PATH",
        required=True,
        help="a new file; hub: a new folder",
    )
    parser.add_argument(
        "--license", default="unknown", metavar="ID", help="hub: of the weights, such as cc-by-4.0"
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="the generator's averaged or last weights [averaged if the checkpoint has them]",
    )


def main(arguments: argparse.Namespace) -> None:
    from glinpaint_jax.interop.export import TOLERANCE, export_weights
    from glinpaint_jax.interop.hub import export_folder
    from glinpaint_jax.interop.mmagic import mmagic_differences
    from glinpaint_jax.processes import start
    from glinpaint_jax.weights import load_weights

    start()
    weights = load_weights(arguments.checkpoint, arguments.ema)
    output = arguments.output
    if arguments.format == "hub":
        scores = find_scores(as_path(arguments.checkpoint), weights.step)
        difference = export_folder(weights, scores, arguments.license, output)
    else:
        difference = export_weights(weights, arguments.format, output)
    if arguments.format == "mmagic":
        for note in mmagic_differences(weights.config):
            print(f"note: {note}", file=sys.stderr)
    files = output.iterdir() if output.is_dir() else [output]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(
        f"wrote {output} ({megabytes:.1f} MB): differs from JAX by at most "
        f"{difference:.1e} (allowed {TOLERANCE:.0e})"
    )
    if arguments.format == "hub":
        repository = f"USER/{output.absolute().name}"
        print(f"check {output / 'README.md'}, then: hf upload {repository} {output}")


def find_scores(checkpoint: Path, step: int) -> dict[str, int | float]:
    """The run's last scores up to `step`, by name, and their step; empty if it has none.

    `checkpoint` is a workdir or one of its steps.
    """
    from glinpaint_jax.runs.report import read_records
    from glinpaint_jax.step_folders import FOLDER

    path = absolute(checkpoint)
    workdir = path.parent.parent if path.parent.name == FOLDER else path
    found = {}
    for record in read_records(workdir):
        scores = {name: value for name, value in record.items() if name.startswith("eval/")}
        if scores and record["step"] <= step:
            found = {"step": record["step"], **scores}
    return found
