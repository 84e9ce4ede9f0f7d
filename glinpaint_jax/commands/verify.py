"""Compares every checkpoint of a workdir, or one of them, with its checksums.

One line a step; exit status 1 where one is not whole. Nothing is changed.
"""

import argparse
import sys
from pathlib import Path

from glinpaint_jax.commands import cli
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import find_damage
from glinpaint_jax.weights import FOLDER, steps_in


def main(arguments: argparse.Namespace) -> None:
    steps = [arguments.folder / FOLDER / str(step) for step in steps_in(arguments.folder)]
    if not steps and (arguments.folder / "config").is_dir():
        steps = [arguments.folder]
    if not steps:
        raise UserError(f"no checkpoint in {arguments.folder}; it must be a workdir or a step")
    damages = [find_damage(step) for step in steps]
    for step, damage in zip(steps, damages, strict=True):
        print(f"{step}: {damage or 'whole'}")
    if any(damages):
        sys.exit(1)


if __name__ == "__main__":
    parser = cli.ArgumentParser("verify", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a workdir, or one of its steps")
    cli.run_command(main, parser)
