"""Checks a workdir's checkpoints, or one of them, against their checksums and numbers.

Prints one line per step. Exits with status 1 if any step is damaged. Changes nothing.
"""

import argparse
import sys

from glinpaint_jax.errors import UserError
from glinpaint_jax.files import as_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=as_path, metavar="DIR", help="a workdir or one of its steps")


def main(arguments: argparse.Namespace) -> None:
    from glinpaint_jax.step_folders import FOLDER, find_step_damage, steps_in

    steps = [arguments.folder / FOLDER / str(step) for step in steps_in(arguments.folder)]
    if not steps and (arguments.folder / "config").is_dir():
        steps = [arguments.folder]
    if not steps:
        raise UserError(f"no checkpoint in {arguments.folder}; pass a workdir or a step")
    damages = {step: find_step_damage(step) for step in steps}
    for step, damage in damages.items():
        print(f"{step}: {damage or 'complete'}")
    if any(damages.values()):
        sys.exit(1)
