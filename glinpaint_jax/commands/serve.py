"""Serves a web page, and its API, for painting over parts of photographs and filling them.

  http://127.0.0.1:7860 in a browser, or from a script:
    curl -F photo=@photo.jpg -F mask=@mask.png -o filled.jpg http://127.0.0.1:7860/complete

By default only this machine can open the page; --host 0.0.0.0 opens it to everyone who can reach
this machine. There is no login. The server keeps no files.
"""

import argparse
import signal
import socket
import sys
from typing import TYPE_CHECKING

from glinpaint_jax.commands import cli
from glinpaint_jax.downloads import CHECKPOINT_HELP
from glinpaint_jax.errors import UserError, import_extra

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, number = parser.add_argument, cli.whole_number
    checkpoints = f"{CHECKPOINT_HELP}; may be repeated, the page offers all"
    add("--checkpoint", action="append", metavar="PATH", help=checkpoints)
    cli.add_method_argument(parser)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all [127.0.0.1]")
    add("--port", type=number(1, 65535), default=7860, help="[7860]")
    names = "a name of this server besides localhost and addresses, such as a proxy's; repeatable"
    add("--allow-host", action="append", default=[], metavar="NAME", help=names)
    megapixels = number(1, 1000)
    add("--max-megapixels", type=megapixels, default=50, metavar="N", help="of a photograph [50]")
    add("--max-megabytes", type=number(1, 1000), default=50, metavar="N", help="of a file [50]")
    add("--max-queue", type=number(1, 1000), default=64, metavar="N", help="most that wait [64]")


def main(arguments: argparse.Namespace) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP."""
    for module in ("starlette", "uvicorn", "python_multipart"):
        import_extra(module)
    from glinpaint_jax.processes import exit_now, start
    from glinpaint_jax.web.app import Limits, make_app, make_server

    listener = listen(arguments)
    start()
    completers = load_completers(arguments)
    limits = Limits(arguments.max_megapixels, arguments.max_megabytes, arguments.max_queue)
    host, port = arguments.host, arguments.port
    server = make_server(make_app(completers, limits, host, arguments.allow_host))
    with listener:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) != signal.SIG_IGN:
                signal.signal(name, server.handle_exit)
        print(f"serving {', '.join(completers)} on http://{host}:{port}", flush=True)
        server.run(sockets=[listener])
    print("stopped", file=sys.stderr, flush=True)
    exit_now(0)  # a completion may still be running, but nobody waits for it


def listen(arguments: argparse.Namespace) -> socket.socket:
    """Returns a listening socket. Raises UserError if the address cannot be used."""
    if ":" in arguments.host:
        raise UserError(f"--host={arguments.host} must be a host name or an IPv4 address")
    try:
        return socket.create_server((arguments.host, arguments.port))
    except OSError:
        address = f"{arguments.host}:{arguments.port}"
        raise UserError(f"cannot listen on {address}; try another --port or --host") from None


def load_completers(arguments: argparse.Namespace) -> dict[str, "Completer"]:
    """Loads every --checkpoint, or what fills the holes without one."""
    from glinpaint_jax.web.uploads import name_checkpoint

    places, completers = arguments.checkpoint or [None], {}
    for place in places:
        arguments.checkpoint = place
        completer = cli.load_completer(arguments)
        name = name_checkpoint(place) if place else arguments.method or "auto"
        if name in completers:
            raise UserError(f"two checkpoints are called {name!r}; rename one")
        completers[name] = completer
    return completers
