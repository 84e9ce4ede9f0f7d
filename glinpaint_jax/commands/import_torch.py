"""Converts a Global&Local weight file, as trained by MMagic or MMEditing, to a checkpoint.

`complete`, `evaluate` and `export` take the new folder as a checkpoint; to train from it, pass
--config.init_from=DIR. The file may hold the generator alone or the discriminators as well.
"""

import argparse

from glinpaint_jax.files import as_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a .pth or .safetensors file, its URL, or the name places or celeba_hq",
    )
    parser.add_argument("--output", type=as_path, metavar="DIR", required=True, help="a new folder")


def main(arguments: argparse.Namespace) -> None:
    import jax

    from glinpaint_jax.downloads import locate
    from glinpaint_jax.interop.weight_files import read_weights
    from glinpaint_jax.weights import save_imported

    def count(variables: dict) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    weights, ignored = read_weights(locate(arguments.file))
    save_imported(weights, arguments.output)
    parts = [f"generator ({count(weights.generator):,} parameters)"]
    if weights.discriminator is not None:
        parts.append(f"discriminator ({count(weights.discriminator):,})")
    print(f"wrote {arguments.output}: {' and '.join(parts)}, step {weights.step}")
    if ignored:
        print(f"ignored: {', '.join(ignored)}")
