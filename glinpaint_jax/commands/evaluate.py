"""Scores what fills holes on evaluation images: checkpoints, methods, any program's results.

  python -m glinpaint_jax evaluate --checkpoint runs/places --method smooth --method auto
  python -m glinpaint_jax evaluate --checkpoint places --config places     MMagic's, on their data

To score another program, export the images and masks, complete them, and pass the results:

  python -m glinpaint_jax evaluate --config places --export set
  another-program --image set/val/images --mask set/val/masks --output results/val
  python -m glinpaint_jax evaluate --config places --results results

The config chooses the images, crops and holes: --config, or else the first checkpoint's own, with
fields changed by --config.FIELD=VALUE. A network is always the checkpoint's, with averaged weights
if it has them, and so is the color that it sees in holes, unless --config.mask.fill changes it.

l1: mean error in the hole. PSNR, SSIM, MS-SSIM: of the whole image. patches: how much the textures
in the hole differ (sliced Wasserstein distance of 7x7 patches, in gray levels). Then PSNR and SSIM
in the hole, and the error of the whole image.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glinpaint_jax.commands import cli
from glinpaint_jax.config import Config
from glinpaint_jax.downloads import CHECKPOINT_HELP
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import dump_json, report_unwritable
from glinpaint_jax.inference.methods import METHODS

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from glinpaint_jax.models.networks import Weights

Scores = dict[str, dict[str, dict[str, float]]]  # set -> what filled the holes -> metric
HEADINGS = {
    "l1": "l1 %",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "patches": "patches",
    "psnr_hole": "hole PSNR",
    "ssim_hole": "hole SSIM",
    "l1_image": "image l1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --checkpoint PATH [--config FILE] [--config.FIELD=VALUE ...]"
    add, path = parser.add_argument, cli.local_path
    repeatable = {"action": "append", "default": []}
    add("--checkpoint", **repeatable, metavar="PATH", help=f"{CHECKPOINT_HELP}; repeatable")
    add("--method", **repeatable, choices=METHODS, help="of `complete`; repeatable")
    results = "a folder of completed images, named as --export names them; repeatable"
    add("--results", **repeatable, type=path, metavar="DIR", help=results)
    add("--export", type=path, metavar="DIR", help="write images, masks and originals there")
    add("--limit", type=cli.positive_int, metavar="N", help="most images per evaluation set")
    add("--json", type=path, metavar="FILE", help="also write the scores there")
    add("--output", type=path, metavar="DIR", help="also write a PNG of every completed image")
    cli.add_config_arguments(parser, "a config file or name [the first checkpoint's own config]")
    cli.add_distributed_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = cli.load_config(arguments) if arguments.config else None
    scores_file = arguments.json
    if scores_file and (scores_file.is_dir() or not scores_file.absolute().parent.is_dir()):
        raise UserError(f"--json={scores_file} must be a file in an existing folder")
    for flag, folder in (("output", arguments.output), ("export", arguments.export)):
        if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"--{flag}={folder} exists and is not empty; choose another folder")
    filled = [*arguments.method, *map(str, arguments.results)]
    if not arguments.checkpoint and not (config and (filled or arguments.export)):
        raise UserError("pass --checkpoint, or --config with --method, --results or --export")
    for names in (arguments.checkpoint, filled):
        if repeated := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"{repeated[0]} would name two rows; pass it once or, if it is also a folder of "
                "results, pass that as an absolute path"
            )
    cli.start(arguments)
    import jax

    from glinpaint_jax.weights import load_weights

    loaded = [(spec, load_weights(spec)) for spec in arguments.checkpoint]
    if config is None:
        config = cli.load_config(arguments, loaded[0][1].config)
    if arguments.limit:
        config.data.eval_images = arguments.limit
    scores = score(arguments, loaded, config)
    if jax.process_index() != 0:
        return
    if arguments.config is None:
        log(f"config of the checkpoint: data.source {config.data.source}")
    if arguments.export:
        log(f"wrote {', '.join(scores)} to {arguments.export}")
    if any(scores.values()):
        print(table(scores))
    if scores_file:
        content = {"step": loaded[0][1].step if loaded else None, "scores": scores}
        with report_unwritable(scores_file):
            scores_file.write_text(dump_json(content, indent=2) + "\n")


def log(line: str) -> None:
    print(line, file=sys.stderr)


def score(
    arguments: argparse.Namespace, loaded: list[tuple[str, "Weights"]], config: Config
) -> Scores:
    """Scores everything on every set; also writes the pictures that are asked for."""
    import jax

    from glinpaint_jax.data.datasets import open_sources
    from glinpaint_jax.data.pipeline import FailureLog
    from glinpaint_jax.evaluation import evaluate
    from glinpaint_jax.evaluation.pictures import read_result
    from glinpaint_jax.parallel import make_mesh
    from glinpaint_jax.processes import require_same

    data, mesh = config.data, make_mesh()
    sources = open_sources(data.source, data.eval_source, data.eval_images)
    require_same(config, sources.fingerprints())
    failures = FailureLog(log)
    if jax.process_index() == 0:
        log(sources.description)
    fills = make_fills(arguments, loaded, config, mesh)
    scores = {}
    for set_name, (source, masked) in evaluate.evaluation_sets(sources, config).items():
        if arguments.export:
            evaluate.export_set(source, masked, mesh, failures, arguments.export / set_name)
        methods = dict(fills)
        for folder in arguments.results:
            own = folder / set_name
            own = own if own.is_dir() else folder
            read = functools.partial(read_result, own, source)
            methods[str(folder)] = evaluate.make_host_completion(read, mesh)
        scores[set_name] = {}
        for number, (name, completion) in enumerate(methods.items()):
            output = arguments.output and arguments.output / set_name
            if output and len(methods) > 1:
                output /= str(number)
            found, _ = evaluate.evaluate(completion, source, masked, mesh, failures, output)
            scores[set_name][name] = found
    return scores


def make_fills(
    arguments: argparse.Namespace,
    loaded: list[tuple[str, "Weights"]],
    config: Config,
    mesh: "Mesh",
) -> dict[str, Callable[..., Any]]:
    """The checkpoints and methods by name, each as a `CompleteBatch`."""
    import jax

    from glinpaint_jax.evaluation import evaluate
    from glinpaint_jax.inference.completer import Completer
    from glinpaint_jax.models.networks import make_networks
    from glinpaint_jax.parallel import replicated

    fills = {}
    for spec, weights in loaded:
        is_changed = "config.mask.fill" in vars(arguments)
        fill = (config if is_changed else weights.config).mask.fill
        generator, _ = make_networks(weights.config)
        completion = evaluate.make_generator_completion(generator, fill, mesh)
        name = "model" if len(loaded) == 1 else spec
        variables = jax.device_put(weights.generator, replicated(mesh))
        fills[f"{name}, step {weights.step}"] = completion(variables)
    for method in arguments.method:
        fill = Completer(method=method).fill
        fills[method] = evaluate.make_host_completion(
            lambda _, image, mask, fill=fill: fill(image, mask[..., 0] > 0), mesh
        )
    return fills


def table(scores: Scores) -> str:
    """Aligned plain text, one block per set."""
    lines = []
    for set_name, methods in scores.items():
        width = max(22, *map(len, methods))
        headings = "".join(f"{heading:>10}" for heading in HEADINGS.values())
        lines.append(f"{set_name.replace('_', ' '):<{width + 2}}{headings}")
        for method, values in methods.items():
            numbers = "".join(f"{values[name]:>10.3f}" for name in HEADINGS)
            lines.append(f"  {method:<{width}}{numbers}")
    return "\n".join(lines)
