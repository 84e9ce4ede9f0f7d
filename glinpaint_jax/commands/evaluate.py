"""Scores checkpoints on their evaluation images: L1 error, PSNR and SSIM.

  python -m glinpaint_jax evaluate --checkpoint runs/places
  python -m glinpaint_jax evaluate --checkpoint runs/a --checkpoint runs/b/checkpoints/1000

The config chooses the images, crops and holes: --config, or else the first checkpoint's own, with
fields changed by --config.FIELD=VALUE. A network is always the checkpoint's, with averaged weights
if it has them, and so is the color that it sees in holes, unless --config.mask.fill changes it.

MMagic's weights on their data:

  python -m glinpaint_jax evaluate --checkpoint places --config places
"""

import argparse
import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glinpaint_jax.commands import cli
from glinpaint_jax.config import SCORES, Config
from glinpaint_jax.downloads import CHECKPOINT_HELP
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import dump_json, report_unwritable

if TYPE_CHECKING:
    from glinpaint_jax.models.networks import Weights

Scores = dict[str, dict[str, dict[str, float]]]  # set -> method -> metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --checkpoint PATH [--config FILE] [--config.FIELD=VALUE ...]"
    add = parser.add_argument
    checkpoints = f"{CHECKPOINT_HELP}; may be repeated"
    add("--checkpoint", action="append", required=True, metavar="PATH", help=checkpoints)
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

    loaded = [(spec, load_weights(spec)) for spec in arguments.checkpoint]
    if config is None:
        config = cli.load_config(arguments, loaded[0][1].config)
    if arguments.limit:
        config.data.eval_images = arguments.limit
    networks = {}
    for spec, weights in loaded:
        name = f"model, step {weights.step}" if len(loaded) == 1 else f"{spec}, step {weights.step}"
        own = copy.deepcopy(config)
        if "config.mask.fill" not in vars(arguments):
            own.mask.fill = weights.config.mask.fill
        networks[name] = weights, own
    scores = score(networks, config, arguments.baselines, output)
    if jax.process_index() != 0:
        return
    if arguments.config is None:
        log(f"config of the checkpoint: data.source {config.data.source}")
    print(table(scores))
    if scores_file:
        content = dump_json({"step": loaded[0][1].step, "scores": scores}, indent=2) + "\n"
        with report_unwritable(scores_file):
            scores_file.write_text(content)


def log(line: str) -> None:
    print(line, file=sys.stderr)


def score(
    networks: dict[str, tuple["Weights", Config]],
    config: Config,
    with_baselines: bool,
    pictures: Path | None,
) -> Scores:
    """The scores of networks by name, each with its fill in its config, and of the baselines.

    Writes the networks' pictures of each set below the folder `pictures`, if given.
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
    completions = {}
    for name, (weights, own) in networks.items():
        variables = jax.device_put(weights.generator, replicated(mesh))
        generator, _ = make_networks(weights.config)
        completions[name] = evaluate.make_generator_completion(own, generator, mesh)(variables)
    fills = dict(baselines.BASELINES) if with_baselines else {}
    if config.image_size > baselines.BIHARMONIC_SIZE and fills.pop("biharmonic", None):
        log(f"biharmonic is left out: images are larger than {baselines.BIHARMONIC_SIZE}")
    others = {name: evaluate.make_baseline_completion(fill, mesh) for name, fill in fills.items()}

    scores = {}
    for set_name, (source, masked) in evaluate.evaluation_sets(sources, config).items():
        methods = completions | others
        for number, name in enumerate(completions, start=1):
            if pictures:
                folder = pictures / set_name / (str(number) if len(completions) > 1 else "")
                methods[name] = evaluate.with_pictures(methods[name], source, folder)
        scores[set_name] = {
            method: evaluate.evaluate(completion, source, masked, mesh, failures)[0]
            for method, completion in methods.items()
        }
    return scores


def table(scores: Scores) -> str:
    """Aligned plain text, one block per set."""
    lines = []
    for set_name, methods in scores.items():
        width = max(22, *map(len, methods))
        lines.append(f"{set_name.replace('_', ' '):<{width + 2}}{'l1 %':>9}{'PSNR':>9}{'SSIM':>9}")
        for method, values in methods.items():
            numbers = "".join(f"{values[score]:>9.3f}" for score in SCORES)
            lines.append(f"  {method:<{width}}{numbers}")
    return "\n".join(lines)
