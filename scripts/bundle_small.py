"""Puts the generator of a trained small network into the package.

    python scripts/bundle_small.py runs/small

Its model card, glinpaint_jax/pretrained/small/README.md, is written by hand.
"""

import dataclasses
import sys

from glinpaint_jax.downloads import BUNDLED_FOLDER, HUB_WEIGHTS
from glinpaint_jax.files import replace_atomically
from glinpaint_jax.interop.export import write_compared
from glinpaint_jax.weights import load_weights


def main() -> None:
    # Without its discriminator, which was not trained.
    weights = dataclasses.replace(load_weights(sys.argv[1]), discriminator=None)
    path = BUNDLED_FOLDER / HUB_WEIGHTS
    with replace_atomically(path) as temporary:
        difference = write_compared(weights, "safetensors", temporary)
    print(f"wrote {path} (step {weights.step}); it differs from JAX by at most {difference:.1e}")


if __name__ == "__main__":
    main()
