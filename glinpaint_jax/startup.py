"""What a program does before its slow imports: standard streams and Ctrl-C."""

import contextlib
import os
import runpy
import signal
import sys
from types import FrameType
from typing import Any, NoReturn


def main() -> None:
    """The command `glinpaint`: the same as `python -m glinpaint_jax`."""
    runpy.run_module("glinpaint_jax", run_name="__main__")


def prepare() -> None:
    """Opens closed standard streams; from now on Ctrl-C ends the program in one line, status 130.

    Ctrl-C raises KeyboardInterrupt, but exits at once where that could get lost: in an import, in
    a callback that cannot raise, and the second time. If it is ignored, it stays ignored.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Takes the stream's own number, the lowest free one. A file of the run that took it
            # would receive the messages of C libraries.
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)  # for data workers
            setattr(sys, name, os.fdopen(descriptor, mode))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _exit_if_interrupted


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, _exit)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _exit()
        frame = frame.f_back
    raise KeyboardInterrupt


def _exit_if_interrupted(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _exit()
    sys.__unraisablehook__(unraisable)


def _exit(*_: Any) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(128 + signal.SIGINT)
