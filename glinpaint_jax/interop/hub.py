"""Exports weights as a folder that is ready for the Hugging Face Hub.

    model.safetensors  the networks, with MMagic's keys, and the config
    config.json        the config, to read
    README.md          the model card
    samples.png        rows: masked, completed, original; only if the run has drawn them

The first alone is enough to load them (`weights.load_weights`).
"""

import json
from pathlib import Path
from typing import NamedTuple

import glinpaint_jax
from glinpaint_jax.config import BBOX_MASK_KINDS, SCORES, Config, to_dict
from glinpaint_jax.downloads import HUB_WEIGHTS
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import replace_atomically, report_unwritable
from glinpaint_jax.interop.export import write_compared
from glinpaint_jax.interop.mmagic import is_foreign
from glinpaint_jax.models.networks import Weights

PICTURE = "samples.png"
CARD = """\
---
license: {license}
library_name: glinpaint_jax
pipeline_tag: image-to-image
tags:
- inpainting
- jax
---

# {name}

Fills holes in photographs: Global&Local image completion
([Iizuka et al., SIGGRAPH 2017](https://doi.org/10.1145/3072959.3073659)), made with glinpaint_jax
{version}.

```bash
pip install 'glinpaint_jax[hub]'
glinpaint complete --checkpoint hf://USER/{name} \\
    --image photo.jpg --mask mask.png --output filled.png
```

```python
from glinpaint_jax import Completer

filled = Completer.load("hf://USER/{name}")("photo.jpg", "mask.png")
```

White marks the hole.
{picture}
## Training

{training}

## Scores

{scores}

## Citation

```bibtex
@article{{IizukaSIGGRAPH2017,
  author  = {{Satoshi Iizuka and Edgar Simo-Serra and Hiroshi Ishikawa}},
  title   = {{{{Globally and Locally Consistent Image Completion}}}},
  journal = {{ACM Transactions on Graphics (Proc. of SIGGRAPH 2017)}},
  volume  = {{36}}, number = {{4}}, pages = {{107:1--107:14}}, year = {{2017}},
}}
```
"""


class History(NamedTuple):
    """What a run's workdir says about its weights."""

    scored_step: int = 0  # the step that `scores` belong to
    scores: dict[str, dict[str, float]] | None = None  # set -> metric
    picture: bytes | None = None  # PNG: rows of masked, completed and original images


def export_folder(weights: Weights, history: History, license: str, folder: Path) -> float:
    """Writes the new `folder`; returns the difference of its weights from JAX (`export_weights`).

    Raises UserError and leaves nothing if the difference is too large, or if `folder` exists or
    cannot be written.
    """
    with report_unwritable(folder):
        if folder.exists():
            raise UserError(f"{folder} exists; remove it or choose another --output")
        with replace_atomically(folder) as temporary:
            temporary.mkdir()
            difference = write_compared(weights, "safetensors", temporary / HUB_WEIGHTS)
            config = json.dumps(to_dict(weights.config), indent=2) + "\n"
            (temporary / "config.json").write_text(config)
            card = make_card(weights, history, license, folder.absolute().name)
            (temporary / "README.md").write_text(card, encoding="utf-8")
            if history.picture:
                (temporary / PICTURE).write_bytes(history.picture)
    return difference


def make_card(weights: Weights, history: History, license: str, name: str) -> str:
    """Returns the model card, in Markdown."""
    alt = "masked, completed and original photographs"
    training = _table(_describe_training(weights.config, weights.step), "| | |", "|---|---|")
    if is_foreign(weights):
        training = "Converted from a weight file of MMagic, which does not record its training."
    scores = "Not evaluated."
    if history.scores:
        rows = [
            (images.replace("_", " "), *(f"{values[score]:.3f}" for score in SCORES))
            for images, values in history.scores.items()
        ]
        scores = _table(rows, "| images | L1 (%) | PSNR | SSIM |", "|---|---|---|---|")
        scores += f"\n\nAt step {history.scored_step}."
    return CARD.format(
        license=license,
        name=name,
        version=glinpaint_jax.__version__,
        picture=f"\n![{alt}]({PICTURE})\n" if history.picture else "",
        training=training,
        scores=scores,
    )


def _describe_training(config: Config, step: int) -> list[tuple[str, ...]]:
    mask = config.mask
    size = f", up to {mask.max_size} pixels" if mask.kind in BBOX_MASK_KINDS else ""
    return [
        ("data", f"`{config.data.source}`"),
        ("steps", f"{step} of {config.num_steps}, {config.global_batch_size} images each"),
        ("image size", f"{config.image_size}x{config.image_size}"),
        ("holes", (mask.mixed if mask.kind == "mixed" else mask.kind) + size),
        ("generator", f"width {config.model.width}, base {config.model.base}"),
    ]


def _table(rows: list[tuple[str, ...]], *head: str) -> str:
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])
