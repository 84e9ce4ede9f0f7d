"""Flags and errors, the same for every program."""

import argparse
import difflib
import itertools
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from glinpaint_jax.config import Config, flatten, to_dict
from glinpaint_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file; --config.field=value replaces a field."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; or JAX_COORDINATOR_ADDRESS in the environment."
)
PROCESS_COUNT = flags.DEFINE_integer(
    "process-count", None, "Of all hosts together; or JAX_NUM_PROCESSES."
)
PROCESS_ID = flags.DEFINE_integer("process-id", None, "From 0 on; or JAX_PROCESS_ID.")


class ArgumentParser(argparse.ArgumentParser):
    """Of a command that takes no config. What it cannot parse is a UserError."""

    def __init__(self, command: str, description: str):
        super().__init__(
            f"python -m glinpaint_jax {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells more")


def run(program: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Runs a program with a config, absl's flags parsed. A UserError is one line, exit status 1.

    `interrupted` is what Ctrl-C prints.
    """
    # grain's workers leave their last batch to this process's resource tracker, which frees it
    # and complains.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    _report_errors(lambda: app.run(lambda _: program(), flags_parser=_parse), interrupted)


def run_command(
    program: Callable[[argparse.Namespace], None],
    parser: ArgumentParser,
    interrupted: str = "interrupted",
) -> None:
    """The same for a command without a config: `program` gets the arguments."""
    _report_errors(lambda: program(parser.parse_args()), interrupted)


def _report_errors(program: Callable[[], None], interrupted: str) -> None:
    # TFDS warns of every dataset that is not prepared, absl of every flag it does not know, orbax
    # of itself, and prints the errors that it raises as well.
    absl_logging.set_verbosity(absl_logging.FATAL)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _exit(1)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        _exit(130)
    except Exception as error:
        if not _has_joined_others():
            raise
        from glinpaint_jax import distributed

        if line := distributed.lost_another(error):
            sys.stderr.write(f"error: {line}\n")
        else:
            traceback.print_exc()
        _exit(1)


def _exit(status: int) -> NoReturn:
    if _has_joined_others():
        from glinpaint_jax import distributed

        sys.stdout.flush()
        sys.stderr.flush()
        distributed.leave(status)
    sys.exit(status)


def _has_joined_others() -> bool:
    jax = sys.modules.get("jax")  # what fails early has not imported it
    return jax is not None and jax.distributed.is_initialized()


def start() -> None:
    """Joins the other processes that the flags or the environment speak of."""
    # Imported late: data workers import this module, and must not load jax.
    from glinpaint_jax import distributed

    distributed.start(COORDINATOR.value, PROCESS_COUNT.value, PROCESS_ID.value)


def load_config() -> Config:
    """The validated config of the command line."""
    config = CONFIG.value
    if not isinstance(config, Config):
        raise UserError(f"{config_path()} must define get_config() -> glinpaint_jax.config.Config")
    return config.validate()


def config_path() -> Path:
    return Path(flags.FLAGS["config"].config_filename)


def _parse(argv: list[str]) -> list[str]:
    path = _config_argument(argv)
    if path is not None and not Path(path).is_file():
        raise UserError(f"no config file {path!r}; the project's own lie in configs/")
    _refuse_unknown_fields(argv)
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from None
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}; flags start with --")
    if path is None:
        raise UserError("no config; pass --config configs/demo.py or another file of configs/")
    return rest


def _refuse_unknown_fields(argv: list[str]) -> None:
    fields = flatten(to_dict(Config()))
    for argument in argv:
        name = argument.partition("=")[0]
        match = re.fullmatch(r"--?config\.(.*)", name)
        if match and (field := match[1]) not in fields:
            close = difflib.get_close_matches(field, fields, n=3)
            known = ", ".join(close or fields)
            raise UserError(f"{name}: the config has no such field; known: {known}")


def _config_argument(argv: list[str]) -> str | None:
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        if argument in ("--config", "-config"):
            return following
        if argument.startswith(("--config=", "-config=")):
            return argument.partition("=")[2]
    return None
