"""Reads a weight file of MMagic's Global&Local, as trained by MMagic or MMEditing.

The folder it makes is a checkpoint: complete, evaluate and export take it, and training starts
from it with --config.init_from=DIR. Generator alone, or with the discriminators.
"""

import argparse
from pathlib import Path

import jax

from glinpaint_jax.commands import cli
from glinpaint_jax.interop.weight_files import read_weights
from glinpaint_jax.models.networks import Variables
from glinpaint_jax.weights import save_imported


def main(arguments: argparse.Namespace) -> None:
    weights, ignored = read_weights(arguments.file)
    save_imported(weights, arguments.output)
    parts = [f"generator ({count(weights.generator):,} parameters)"]
    if weights.discriminator is not None:
        parts.append(f"discriminator ({count(weights.discriminator):,})")
    print(f"wrote {arguments.output}: {' and '.join(parts)}, step {weights.step}")
    if ignored:
        print(f"ignored: {', '.join(ignored)}")


def count(variables: Variables) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


if __name__ == "__main__":
    parser = cli.ArgumentParser("import-torch", __doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a .pth or .safetensors file")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="a new folder")
    cli.run_command(main, parser)
