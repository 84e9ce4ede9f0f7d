"""Scores a checkpoint on its evaluation images: L1 error, PSNR and SSIM.

  python -m glinpaint_jax evaluate --checkpoint runs/places

The config chooses the images, crops and holes: --config, or else the checkpoint's own, with fields
changed by --config.FIELD=VALUE. The network is always the checkpoint's, with averaged weights if
it has them, and so is the color that it sees in holes, unless --config.mask.fill changes it.

MMagic's weights on their data:

  python -m glinpaint_jax evaluate --checkpoint places --config places
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glinpaint_jax.commands import cli
from glinpaint_jax.config import SCORES, Config
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import report_unwritable

if TYPE_CHECKING:
    from glinpaint_jax.models.networks import Weights

Scores = dict[str, dict[str, dict[str, float]]]  # set -> method -> metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --checkpoint PATH [--config FILE] [--config.FIELD=VALUE ...]"
    add = parser.add_argument
    cli.add_checkpoint_argument(parser)
    add("--limit", type=cli.positive_int, metavar="N", help="most images per evaluation set")
    add("--json", type=cli.local_path, metavar="FILE", help="also write the scores there")
    add("--output", type=cli.local_path, metavar="DIR", help="also write a PNG of every image")
    add("--baselines", action="store_true", help="also score methods that need no training")
    cli.add_config_arguments(parser, "a config file or name [the checkpoint's own config]")
    cli.add_distributed_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = cli.load_config(arguments) if arguments.config else None
    scores_file, output = arguments.json, arguments.output
    if scores_file and (scores_file.is_dir() or not scores_file.absolute().parent.is_dir()):
        raise UserError(f"--json={scores_file} must be a file in an existing folder")
    if output and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output={output} exists and is not empty; choose another folder")
    cli.start(arguments)
    import jax

    from glinpaint_jax.weights import load_weights

    weights = load_weights(arguments.checkpoint)
    if config is None:
        config = cli.load_config(arguments, weights.config)
    if "config.mask.fill" not in vars(arguments):
        config.mask.fill = weights.config.mask.fill
    if arguments.limit:
        config.data.eval_images = arguments.limit
    scores = score(weights, config, arguments.baselines, output)
    if jax.process_index() != 0:
        return
    if arguments.config is None:
        log(f"config of the checkpoint: data.source {config.data.source}")
    print(table(scores))
    if scores_file:
        content = json.dumps({"step": weights.step, "scores": scores}, indent=2) + "\n"
        with report_unwritable(scores_file):
            scores_file.write_text(content)


def log(line: str) -> None:
    print(line, file=sys.stderr)


def score(
    weights: "Weights", config: Config, with_baselines: bool, pictures: Path | None
) -> Scores:
    """The scores of the generator, and of the baselines if asked for.

    Writes the generator's pictures of each set below the folder `pictures`, if given.
    """
    import jax

    from glinpaint_jax.data.datasets import open_sources
    from glinpaint_jax.data.pipeline import FailureLog
    from glinpaint_jax.evaluation import baselines, evaluate
    from glinpaint_jax.models.networks import make_networks
    from glinpaint_jax.parallel import make_mesh, replicated
    from glinpaint_jax.processes import require_same

    data, mesh = config.data, make_mesh()
    sources = open_sources(data.source, data.eval_source, data.eval_images)
    require_same(config, sources.fingerprints())
    failures = FailureLog(log)
    if jax.process_index() == 0:
        log(sources.description)
    generator, _ = make_networks(weights.config)
    variables = jax.device_put(weights.generator, replicated(mesh))
    model = evaluate.make_generator_completion(config, generator, mesh)(variables)
    fills = dict(baselines.BASELINES) if with_baselines else {}
    if config.image_size > baselines.BIHARMONIC_SIZE and fills.pop("biharmonic", None):
        log(f"biharmonic is left out: images are larger than {baselines.BIHARMONIC_SIZE}")
    others = {name: evaluate.make_baseline_completion(fill, mesh) for name, fill in fills.items()}

    scores = {}
    for set_name, source in sources.evaluation.items():
        own = evaluate.with_pictures(model, source, pictures / set_name) if pictures else model
        scores[set_name] = {
            method: evaluate.evaluate(completion, source, config, mesh, failures)[0]
            for method, completion in {f"model, step {weights.step}": own, **others}.items()
        }
    return scores


def table(scores: Scores) -> str:
    """Aligned plain text, one block per set."""
    lines = []
    for set_name, methods in scores.items():
        lines.append(f"{set_name.replace('_', ' '):<24}{'l1 %':>9}{'PSNR':>9}{'SSIM':>9}")
        for method, values in methods.items():
            numbers = "".join(f"{values[score]:>9.3f}" for score in SCORES)
            lines.append(f"  {method:<22}{numbers}")
    return "\n".join(lines)
