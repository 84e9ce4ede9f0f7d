"""Scores a checkpoint on its evaluation images: L1 error, PSNR and SSIM.

  python -m glinpaint_jax evaluate --checkpoint runs/places

The config chooses the images, crops and holes: --config, or else the checkpoint's own, with fields
changed by --config.FIELD=VALUE. The network is always the checkpoint's, with averaged weights if
it has them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glinpaint_jax.commands import cli
from glinpaint_jax.config import Config
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import write_atomically

if TYPE_CHECKING:
    from glinpaint_jax.models.networks import Weights

Scores = dict[str, dict[str, dict[str, float]]]  # set -> method -> metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --checkpoint PATH [--config FILE] [--config.FIELD=VALUE ...]"
    add = parser.add_argument
    cli.add_checkpoint_argument(parser)
    add("--limit", type=cli.positive_int, metavar="N", help="most images per evaluation set")
    add("--json", type=Path, metavar="FILE", help="also write the scores to this file")
    add("--baselines", action="store_true", help="also score mean color fill and Telea")
    cli.add_config_arguments(parser, "config file [the checkpoint's own config]")
    cli.add_distributed_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = cli.load_config(arguments) if arguments.config else None
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise UserError(f"--json={arguments.json}: no folder {arguments.json.absolute().parent}")
    cli.start(arguments)
    from glinpaint_jax.weights import load_weights

    weights = load_weights(arguments.checkpoint)
    if config is None:
        config = cli.load_config(arguments, weights.config)
    if config.mask.fill == "mean":
        config.mask.fill = weights.config.mask.fill
    if arguments.limit:
        config.data.eval_images = arguments.limit
    scores = score(weights, config, arguments.baselines)
    if arguments.config is None:
        print(f"config of the checkpoint: data.source {config.data.source}", file=sys.stderr)
    print(table(scores))
    if arguments.json:
        content = json.dumps({"step": weights.step, "scores": scores}, indent=2) + "\n"
        write_atomically(arguments.json, content.encode())


def score(weights: "Weights", config: Config, with_baselines: bool) -> Scores:
    """The scores of the generator, and of the baselines if asked for."""
    import jax

    from glinpaint_jax.data.datasets import open_sources
    from glinpaint_jax.distributed import make_mesh, replicated
    from glinpaint_jax.evaluation.baselines import BASELINES
    from glinpaint_jax.evaluation.evaluate import (
        evaluate,
        make_baseline_completion,
        make_generator_completion,
    )
    from glinpaint_jax.models.networks import make_networks

    mesh = make_mesh()
    _, sources = open_sources(config.data.source, config.data.eval_source, config.data.eval_images)
    generator, _ = make_networks(weights.config)
    variables = jax.device_put(weights.generator, replicated(mesh))
    completions = {
        f"model, step {weights.step}": make_generator_completion(config, generator, mesh)(variables)
    }
    if with_baselines:
        for name, fill in BASELINES.items():
            completions[name] = make_baseline_completion(fill, mesh)

    def warn(line: str) -> None:
        print(line, file=sys.stderr)

    return {
        set_name: {
            method: evaluate(completion, source, config, mesh, warn)
            for method, completion in completions.items()
        }
        for set_name, source in sources.items()
    }


def table(scores: Scores) -> str:
    """Aligned plain text, one block per set."""
    lines = []
    for set_name, methods in scores.items():
        lines.append(f"{set_name.replace('_', ' '):<24}{'l1 %':>8}{'PSNR':>8}{'SSIM':>8}")
        for method, values in methods.items():
            lines.append(
                f"  {method:<22}{values['l1']:>8.2f}{values['psnr']:>8.2f}{values['ssim']:>8.3f}"
            )
    return "\n".join(lines)
