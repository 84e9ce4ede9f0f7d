"""Flags, configs and errors, the same for every program.

A command is a module with a docstring (its --help), `add_arguments(parser)` and `main(arguments)`.
Commands import jax inside functions: --help stays quick, and data workers, which import the
program when they are spawned, do not load it.
"""

import argparse
import copy
import difflib
import functools
import os
import runpy
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from math import inf
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags
from absl import logging as absl_logging

from glinpaint_jax.config import Config, describe_bounds, parse_value, set_value, settings
from glinpaint_jax.configs import FOLDER
from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.methods import METHODS

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer


def run(command: ModuleType, program: str, arguments: list[str]) -> None:
    """Runs a command. A UserError prints one line and exits with status 1.

    Ctrl-C prints the command's INTERRUPTED, if it has one, and exits with status 130.
    """
    # If a standard stream is closed, the next file would get its messages.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    # grain's workers leave shared memory to this process's resource tracker, which frees it but
    # warns about it.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    flags.FLAGS.mark_as_parsed()  # grain reads absl flags
    # TFDS warns about every unprepared dataset; orbax logs the errors that it raises as well.
    absl_logging.set_verbosity(absl_logging.FATAL)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        parser = ArgumentParser(program, command.__doc__)
        command.add_arguments(parser)
        command.main(parser.parse_args(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _exit(1)
    except KeyboardInterrupt:
        print(getattr(command, "INTERRUPTED", "interrupted"), file=sys.stderr)
        _exit(130)
    except Exception:
        traceback.print_exc()
        _exit(1)


def _exit(status: int) -> NoReturn:
    jax = sys.modules.get("jax")  # not imported yet if the program fails early
    joined = jax is not None and jax.distributed.is_initialized()
    if joined or "gcsfs" in sys.modules:
        from glinpaint_jax import processes

        # A normal exit would wait for the other processes, which may be dead, or half an hour for
        # a bucket that does not answer.
        sys.stdout.flush()
        sys.stderr.flush()
        processes.exit_now(status)
    sys.exit(status)


class ArgumentParser(argparse.ArgumentParser):
    """Raises UserError for arguments that it cannot parse."""

    def __init__(self, program: str, description: str):
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(
            program,
            description=description,
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, width=width, max_help_position=46
            ),
            allow_abbrev=False,
        )

    def parse_args(self, arguments: list[str]) -> argparse.Namespace:
        parsed, surplus = self.parse_known_args(arguments)
        if not surplus:
            return parsed
        name = surplus[0].partition("=")[0]
        if not name.startswith("-"):
            raise UserError(f"unexpected argument {name!r}; flags start with --")
        close = difflib.get_close_matches(name, self._option_string_actions, n=3)
        advice = f"did you mean {' or '.join(close)}?" if close else "see --help"
        raise UserError(f"unknown flag {name}; {advice}")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def add_method_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method", choices=METHODS, help="what fills holes without --checkpoint [auto]"
    )


def load_completer(arguments: argparse.Namespace, **options: Any) -> "Completer":
    """Loads --checkpoint, or prepares --method; without both, says what fills the holes."""
    from glinpaint_jax.inference.completer import Completer

    if arguments.checkpoint and arguments.method:
        raise UserError("pass either --checkpoint or --method")
    if arguments.checkpoint:
        return Completer.load(arguments.checkpoint, **options)
    if not arguments.method:
        hint = "; --attempt 1 to 4 give other results" if hasattr(arguments, "attempt") else ""
        print(
            "no --checkpoint: filling holes with patches of the photograph (--method auto)" + hint,
            file=sys.stderr,
        )
    return Completer(method=arguments.method, **options)


def add_config_arguments(parser: argparse.ArgumentParser, help: str) -> None:
    """--config FILE, and --config.FIELD=VALUE for every field."""
    parser.add_argument("--config", metavar="FILE", help=help)
    groups = {}
    for path, setting in settings():
        section = f"config.{path}".rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        kind, default = type(setting.default), setting.default or repr(setting.default)
        meaning = [setting.metadata["meaning"], describe_bounds(setting)]
        groups[section].add_argument(
            f"--config.{path}",
            default=argparse.SUPPRESS,
            help=f"{'; '.join(filter(None, meaning))} [{default}]",
            metavar=kind.__name__.upper(),
            **({"nargs": "?", "const": "true"} if kind is bool else {}),
        )


def add_distributed_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="join the other processes; jax detects SLURM, Open MPI 4 and TPU pods",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0; pass this and the next two if jax detects nothing",
    )
    group.add_argument("--process-count", type=int, metavar="N", help="number of processes")
    group.add_argument("--process-id", type=int, metavar="I", help="this process, 0 to N - 1")


def start(arguments: argparse.Namespace) -> None:
    """Prepares jax, and joins the other processes if the arguments ask for it."""
    from glinpaint_jax import processes

    absl_logging.use_absl_handler()  # silences other loggers too
    processes.start(
        arguments.distributed, arguments.coordinator, arguments.process_count, arguments.process_id
    )


def load_config(arguments: argparse.Namespace, saved: Config | None = None) -> Config:
    """The validated config of --config, or else `saved`, with the fields from the command line."""
    if arguments.config is not None:
        config = read_config(arguments.config)
    elif saved is not None:
        config = copy.deepcopy(saved)
    else:
        raise UserError(
            f"no config; pass --config with a file or one of {', '.join(our_configs())}"
        )
    for path, setting in settings():
        if (text := vars(arguments).get(f"config.{path}")) is not None:
            set_value(config, path, parse_value(text, setting))
    return config.validate()


def our_configs() -> dict[str, str]:
    """The paths of our config files by name, such as places."""
    return {path.stem: str(path) for path in sorted(FOLDER.glob("[!_]*.py"))}


def read_config(spec: str) -> Config:
    """Runs a config file, or else our config of that name.

    Raises UserError, with the line, if it has no usable get_config().
    """
    path = spec if os.path.isfile(spec) else our_configs().get(spec)
    if path is None:
        raise UserError(
            f"no config file {spec!r}; pass a file or one of {', '.join(our_configs())}"
        )
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config() if callable(get_config) else None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        line = lines[-1] if lines else getattr(error, "lineno", None) or 1  # of a SyntaxError
        reason = " ".join(str(error).split())
        raise UserError(f"{path}, line {line}: {type(error).__name__}: {reason}") from None
    if not isinstance(config, Config):
        raise UserError(
            f"{path} must define get_config() -> glinpaint_jax.config.Config, as our demo does"
        )
    return config


def local_path(text: str) -> Path:
    if "://" in text:
        raise UserError(f"{text} must be on disk; only workdirs and checkpoints may be elsewhere")
    return Path(text)


def whole_number(minimum: int, maximum: int | float = inf) -> Callable[[str], int]:
    """The type of a flag for whole numbers in minimum..maximum."""
    allowed = f"in {minimum}..{maximum}" if maximum < inf else f"of at least {minimum}"

    def parse(text: str) -> int:
        if text.isdecimal() and minimum <= int(text) <= maximum:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {allowed}")

    return parse


positive_int = whole_number(1)
