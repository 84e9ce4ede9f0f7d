"""Scores a checkpoint: python -m glinpaint_jax evaluate --config C --checkpoint DIR

The config says which data, crops and holes; the network is the checkpoint's own. Its averaged
weights are used where it has some.
"""

import json
import sys
from pathlib import Path

from absl import flags

from glinpaint_jax.commands import cli
from glinpaint_jax.config import Config
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import write_atomically

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A workdir (its newest step), a step, or a .pth file of MMagic."
)
LIMIT = flags.DEFINE_integer("limit", None, "Images of each set, at most.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "Also write the scores to this file.")
BASELINES = flags.DEFINE_bool("baselines", False, "Also score mean colour fill and Telea.")

Scores = dict[str, dict[str, dict[str, float]]]  # set -> method -> metric


def main() -> None:
    config = cli.load_config()
    if CHECKPOINT.value is None:
        raise UserError("no checkpoint; pass --checkpoint=WORKDIR")
    if JSON.value and not Path(JSON.value).absolute().parent.is_dir():
        raise UserError(f"--json={JSON.value}: no folder {Path(JSON.value).absolute().parent}")
    if LIMIT.value:
        config.data.eval_images = LIMIT.value
    cli.start()
    step, scores = score_checkpoint(config, Path(CHECKPOINT.value))
    print(table(scores))
    if JSON.value:
        content = json.dumps({"step": step, "scores": scores}, indent=2) + "\n"
        write_atomically(Path(JSON.value), content.encode())


def score_checkpoint(config: Config, checkpoint: Path) -> tuple[int, Scores]:
    """The checkpoint's step, and the scores of its generator and of the baselines asked for."""
    # Imported late: data workers import this module, and must not load jax.
    import jax

    from glinpaint_jax.data.datasets import open_sources
    from glinpaint_jax.distributed import make_mesh, replicated
    from glinpaint_jax.evaluation import baselines
    from glinpaint_jax.evaluation.evaluate import (
        evaluate,
        make_baseline_completion,
        make_generator_completion,
    )
    from glinpaint_jax.models.networks import make_networks
    from glinpaint_jax.weights import load_weights

    mesh = make_mesh()
    _, sources = open_sources(config.data.source, config.data.eval_source, config.data.eval_images)
    weights = load_weights(checkpoint)
    generator, _ = make_networks(weights.config)
    variables = jax.device_put(weights.generator, replicated(mesh))
    completions = {
        f"model, step {weights.step}": make_generator_completion(config, generator, mesh)(variables)
    }
    if BASELINES.value:
        for name, fill in baselines.BASELINES.items():
            completions[name] = make_baseline_completion(fill, mesh)

    def warn(line: str) -> None:
        print(line, file=sys.stderr)

    return weights.step, {
        set_name: {
            method: evaluate(completion, source, config, mesh, warn)
            for method, completion in completions.items()
        }
        for set_name, source in sources.items()
    }


def table(scores: Scores) -> str:
    """Aligned plain text, a block for each set."""
    lines = []
    for set_name, methods in scores.items():
        lines.append(f"{set_name.replace('_', ' '):<24}{'l1 %':>8}{'PSNR':>8}{'SSIM':>8}")
        for method, values in methods.items():
            lines.append(
                f"  {method:<22}{values['l1']:>8.2f}{values['psnr']:>8.2f}{values['ssim']:>8.3f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
