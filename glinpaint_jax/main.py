"""Trains a model. If the workdir already holds a checkpoint, training resumes from it.

  python -m glinpaint_jax.main --config places

Pass --config.FIELD=VALUE to change a field of the config.
"""

import argparse
import sys
from pathlib import Path

from glinpaint_jax.commands import cli
from glinpaint_jax.errors import UserError
from glinpaint_jax.files import as_path, in_bucket, require_unlocked

INTERRUPTED = "interrupted; rerun the command to resume from the newest checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s --config FILE [--config.FIELD=VALUE ...] [--workdir DIR]"
    parser.add_argument(
        "--workdir", type=as_path, metavar="DIR", help="folder, or gs://BUCKET/DIR [runs/CONFIG]"
    )
    parser.add_argument(
        "--accept-changed-data", action="store_true", help="resume even with other training images"
    )
    parser.add_argument(
        "--accept-changed-config",
        action="store_true",
        help="resume even with another learning rate, batch, phases, losses, masks or precision",
    )
    parser.add_argument(
        "--profile",
        type=cli.positive_int,
        default=0,
        metavar="STEPS",
        help="trace so many steps, into the workdir's folder profile",
    )
    cli.add_config_arguments(parser, "a config file, or the name of one of ours, such as places")
    cli.add_distributed_arguments(parser)


def main(arguments: argparse.Namespace) -> None:
    config = cli.load_config(arguments)
    workdir = arguments.workdir or Path("runs") / Path(arguments.config).stem
    if arguments.profile and in_bucket(workdir):
        raise UserError(f"--profile needs a workdir on disk, not {workdir}")
    # Before joining: a second process with the number of a joined one would end the first run.
    require_unlocked(workdir)
    cli.start(arguments)
    from glinpaint_jax.training.loop import train

    accepted = [name for name in ("config", "data") if vars(arguments)[f"accept_changed_{name}"]]
    train(config, workdir, accepted, arguments.profile)


if __name__ == "__main__":
    cli.run(sys.modules[__name__], "python -m glinpaint_jax.main", sys.argv[1:])
