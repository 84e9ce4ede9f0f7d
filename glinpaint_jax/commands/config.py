"""Prints one of our configs, to start your own from.

  python -m glinpaint_jax config places > mine.py
  python -m glinpaint_jax train --config mine.py

Without NAME, lists all of them.
"""

import argparse
import ast

from glinpaint_jax.commands import cli
from glinpaint_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="such as places")


def main(arguments: argparse.Namespace) -> None:
    configs = cli.our_configs()
    if arguments.name is None:
        for name, path in configs.items():
            print(f"{name:<12}{ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]}")
    elif arguments.name in configs:
        print(configs[arguments.name].read_text(), end="")
    else:
        raise UserError(f"no config {arguments.name!r}; ours are {', '.join(configs)}")
