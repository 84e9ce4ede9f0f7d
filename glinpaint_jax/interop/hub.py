"""Exports weights as a folder that is ready for the Hugging Face Hub.

    model.safetensors  the networks, with MMagic's keys, and the config
    config.json        the config, to read
    README.md          the model card

The first alone is enough to load them (`weights.load_weights`).
"""

import json
from pathlib import Path

import glinpaint_jax
from glinpaint_jax.downloads import HUB_WEIGHTS
from glinpaint_jax.interop.export import new_output, write_compared
from glinpaint_jax.interop.mmagic import is_foreign
from glinpaint_jax.interop.weight_files import public_config
from glinpaint_jax.models.networks import Weights

CARD = """\
---
license: {license}
library_name: glinpaint_jax
pipeline_tag: image-to-image
tags: [inpainting, jax]
---

# {name}

Fills holes in photographs with [Global&Local image completion][paper] (Iizuka et al., SIGGRAPH
2017), made with glinpaint_jax {version}. White marks the hole:

```bash
pip install 'glinpaint_jax[hub]'
glinpaint complete --checkpoint hf://USER/{name} \\
    --image photo.jpg --mask mask.png --output filled.png
```

## Training

{training}

## Scores

{scores}

[paper]: https://doi.org/10.1145/3072959.3073659
"""


def export_folder(
    weights: Weights, scores: dict[str, int | float], license: str, folder: Path
) -> float:
    """Writes the new `folder`; returns the difference of its weights from JAX (`export_weights`).

    `scores` of the run, and the step they belong to, go into the card. Raises UserError and leaves
    nothing if the difference is too large, or if `folder` exists or cannot be written.
    """
    with new_output(folder) as temporary:
        temporary.mkdir()
        difference = write_compared(weights, "safetensors", temporary / HUB_WEIGHTS)
        config = json.dumps(public_config(weights.config), indent=2) + "\n"
        (temporary / "config.json").write_text(config)
        card = make_card(weights, scores, license, folder.absolute().name)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return difference


def make_card(weights: Weights, scores: dict[str, int | float], license: str, name: str) -> str:
    """Returns the model card, in Markdown."""
    config = weights.config
    training = (
        f"- {weights.step} of {config.num_steps} steps, {config.global_batch_size} images each\n"
        f"- data: `{config.data.source}`, {config.image_size}x{config.image_size}\n"
        f"- holes: {config.mask.mixed if config.mask.kind == 'mixed' else config.mask.kind}\n"
        f"- generator: width {config.model.width}, base {config.model.base}"
    )
    if is_foreign(weights):
        training = "Converted from a weight file of MMagic, which does not record its training."
    lines = [f"- {name.removeprefix('eval/')}: {round(value, 3)}" for name, value in scores.items()]
    return CARD.format(
        license=license,
        name=name,
        version=glinpaint_jax.__version__,
        training=training,
        scores="\n".join(lines) or "Not evaluated.",
    )
