"""Serves a web page, and its API, for painting over parts of photographs and filling them.

  http://127.0.0.1:7860 in a browser, or from a script:
    curl -F photo=@photo.jpg -F mask=@mask.png -o filled.jpg http://127.0.0.1:7860/complete

By default only this machine can open the page; --host 0.0.0.0 opens it to everyone who can reach
this machine. There is no login. The server keeps no file after its answer.
"""

import argparse
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from glinpaint_jax.commands import cli
from glinpaint_jax.downloads import BUNDLED, CHECKPOINT_HELP
from glinpaint_jax.errors import UserError, import_extra

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer
    from glinpaint_jax.web.uploads import Limits


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
    add(
        "--max-queue",
        type=int,
        default=64,
        metavar="N",
        help="most waiting completions; more are rejected [64]",
    )


def main(arguments: argparse.Namespace) -> None:
    for module in ("starlette", "uvicorn", "python_multipart"):
        import_extra(module)
    from glinpaint_jax.distributed import exit_now, start
    from glinpaint_jax.web.uploads import Limits

    limits = Limits(arguments.max_megapixels, arguments.max_megabytes, arguments.max_queue)
    for name, value, most in (
        ("port", arguments.port, 65535),
        ("max-megapixels", limits.megapixels, 89),  # Pillow's own limit
        ("max-megabytes", limits.megabytes, 1000),
        ("max-queue", limits.queue, 1000),
    ):
        if value not in range(1, most + 1):
            raise UserError(f"--{name}={value} must be in 1..{most}")
    if ":" in arguments.host:
        raise UserError(f"--host={arguments.host} must be a host name or an IPv4 address")
    address = f"{arguments.host}:{arguments.port}"
    try:
        listener = socket.create_server((arguments.host, arguments.port))
    except OSError:
        raise UserError(f"cannot listen on {address}; try another --port or --host") from None
    start()
    completers = load_completers(arguments)
    with listener, tempfile.TemporaryDirectory(prefix="glinpaint-") as folder:
        tempfile.tempdir = folder  # unfinished uploads go there too
        serve(completers, Path(folder), limits, listener, arguments)
    print("stopped", file=sys.stderr, flush=True)
    exit_now(0)  # a completion may still be running, but nobody waits for it


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


def serve(
    completers: dict[str, "Completer"],
    folder: Path,
    limits: "Limits",
    listener: socket.socket,
    arguments: argparse.Namespace,
) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP."""
    from glinpaint_jax.web.app import make_app, make_server
    from glinpaint_jax.web.methods import Methods

    app = make_app(Methods(completers), folder, limits, arguments.host, arguments.allow_host)
    server = make_server(app)

    def stop(*_: object) -> None:
        server.should_exit = True

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) != signal.SIG_IGN:
            signal.signal(name, stop)
    names = ", ".join(completers)
    print(f"serving {names} on http://{arguments.host}:{arguments.port}", flush=True)
    server.run(sockets=[listener])
