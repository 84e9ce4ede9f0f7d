"""Trains a model: python -m glinpaint_jax.main --config configs/places.py [--workdir DIR]

Single fields of the config: --config.global_batch_size=12. A workdir that holds a checkpoint is
resumed.
"""

from pathlib import Path

from absl import flags

from glinpaint_jax.commands import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives [runs/<config name>].")


def main() -> None:
    config = cli.load_config()
    cli.start()
    # Imported late: data workers import this module, and must not load jax.
    from glinpaint_jax.training.loop import train

    train(config, Path(WORKDIR.value or f"runs/{cli.config_path().stem}"))


if __name__ == "__main__":
    cli.run(main, "interrupted; the same command resumes from the newest checkpoint")
