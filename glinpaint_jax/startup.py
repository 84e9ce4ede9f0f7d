"""What a program does before its slow imports: standard streams and Ctrl-C."""

import os
import runpy
import sys
from types import TracebackType


def main() -> None:
    """The command `glinpaint`: the same as `python -m glinpaint_jax`."""
    runpy.run_module("glinpaint_jax", run_name="__main__")


def prepare() -> None:
    """Opens closed standard streams; Ctrl-C ends even the imports in one line, with status 130."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)
    sys.__excepthook__(kind, error, trace)
