"""Serves a web page, and its API, for painting over parts of photographs and filling them.

  http://127.0.0.1:7860 in a browser, or from a script:
    curl -F photo=@photo.jpg -F mask=@mask.png -o filled.jpg http://127.0.0.1:7860/complete

By default only this machine can open the page; --host 0.0.0.0 opens it to everyone who can reach
this machine. There is no login. The server keeps no file after its answer.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from glinpaint_jax.commands import cli
from glinpaint_jax.downloads import BUNDLED, CHECKPOINT_HELP
from glinpaint_jax.errors import UserError, import_extra

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer

MAX = {
    "port": 65535,
    "max-megapixels": 89,
    "max-megabytes": 1000,
    "max-queue": 1000,
}  # 89: Pillow's
UPLOADS = "glinpaint-uploads-"  # how the names of temporary folders start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    checkpoints = f"{CHECKPOINT_HELP}; may be repeated, the page offers all"
    add("--checkpoint", action="append", metavar="PATH", help=checkpoints)
    cli.add_method_argument(parser)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all [127.0.0.1]")
    add("--port", type=int, default=7860, help="[7860]")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name of this server besides localhost and addresses, such as a proxy's; repeatable",
    )
    add("--max-megapixels", type=int, default=50, metavar="N", help="largest photograph [50]")
    add("--max-megabytes", type=int, default=50, metavar="N", help="largest file [50]")
    add("--max-queue", type=int, default=64, metavar="N", help="most waiting completions [64]")


def main(arguments: argparse.Namespace) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP."""
    for module in ("starlette", "uvicorn", "python_multipart"):
        import_extra(module)
    from glinpaint_jax.processes import exit_now, start
    from glinpaint_jax.web.app import Limits, make_app, make_server
    from glinpaint_jax.web.methods import Methods

    listener = listen(arguments)
    start()
    completers = load_completers(arguments)
    limits = Limits(arguments.max_megapixels, arguments.max_megabytes, arguments.max_queue)
    host, port = arguments.host, arguments.port
    with listener, temporary_folder() as folder:
        server = make_server(
            make_app(Methods(completers), folder, limits, host, arguments.allow_host)
        )
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) != signal.SIG_IGN:
                signal.signal(name, server.handle_exit)
        print(f"serving {', '.join(completers)} on http://{host}:{port}", flush=True)
        server.run(sockets=[listener])
    print("stopped", file=sys.stderr, flush=True)
    exit_now(0)  # a completion may still be running, but nobody waits for it


def listen(arguments: argparse.Namespace) -> socket.socket:
    """Returns a listening socket. Raises UserError if an argument is out of bounds."""
    for name, maximum in MAX.items():
        value = getattr(arguments, name.replace("-", "_"))
        if value not in range(1, maximum + 1):
            raise UserError(f"--{name}={value} must be in 1..{maximum}")
    if ":" in arguments.host:
        raise UserError(f"--host={arguments.host} must be a host name or an IPv4 address")
    try:
        return socket.create_server((arguments.host, arguments.port))
    except OSError:
        address = f"{arguments.host}:{arguments.port}"
        raise UserError(f"cannot listen on {address}; try another --port or --host") from None


def load_completers(arguments: argparse.Namespace) -> dict[str, "Completer"]:
    """Loads every --checkpoint, or what fills the holes without one."""
    from glinpaint_jax.web.methods import name_checkpoint

    places, completers = arguments.checkpoint or [None], {}
    for place in places:
        arguments.checkpoint = place
        completer = cli.load_completer(arguments, blend="none")
        name = name_checkpoint(place) if place else arguments.method or BUNDLED
        if name in completers:
            raise UserError(f"two checkpoints are called {name!r}; rename one")
        completers[name] = completer
    return completers


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yields a locked folder for uploads. First removes what servers that were killed left."""
    import fcntl  # Windows has none

    def lock(folder: str | Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    for left in Path(tempfile.gettempdir()).glob(f"{UPLOADS}*"):
        with contextlib.suppress(OSError):  # of a running server, or of another user
            lock(left)
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=UPLOADS, ignore_cleanup_errors=True) as folder:
        lock(folder)
        yield Path(folder)
