"""Serves a web page, and its API, for painting over parts of photographs and filling them.

  http://127.0.0.1:7860 in a browser, or from Python:
    client = gradio_client.Client("http://127.0.0.1:7860")
    filled = client.predict(handle_file("photo.jpg"), handle_file("mask.png"), api_name="/complete")

By default only this machine can open the page; --host 0.0.0.0 opens it to everyone who can reach
this machine. There is no login. Uploads are deleted an hour after their last use and when the
server stops.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from glinpaint_jax.commands import cli
from glinpaint_jax.errors import UserError

if TYPE_CHECKING:
    from glinpaint_jax.inference.completer import Completer
    from glinpaint_jax.web.uploads import Limits

KEPT_SECONDS = 60 * 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    cli.add_checkpoint_argument(parser, required=False)
    cli.add_method_argument(parser)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all [127.0.0.1]")
    add("--port", type=int, default=7860, help="[7860]")
    add("--max-megapixels", type=int, default=50, metavar="N", help="largest photograph [50]")
    add("--max-megabytes", type=int, default=50, metavar="N", help="largest file [50]")
    add(
        "--max-queue",
        type=int,
        default=32,
        metavar="N",
        help="most waiting completions; more are rejected [32]",
    )


def main(arguments: argparse.Namespace) -> None:
    from glinpaint_jax.distributed import start
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
    start()
    with tempfile.TemporaryDirectory(prefix="glinpaint-") as folder:
        tempfile.tempdir = folder  # unfinished uploads go there too
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # Gradio requests its own page once, which must not go through a proxy.
        os.environ["no_proxy"] = f"{os.environ.get('no_proxy', '')},{arguments.host}".strip(",")
        serve(cli.load_completer(arguments, blend="none"), Path(folder), limits, arguments)


def serve(
    completer: "Completer", folder: Path, limits: "Limits", arguments: argparse.Namespace
) -> None:
    """Serves until SIGINT or SIGTERM. Raises UserError if the address cannot be used."""
    from starlette.middleware import Middleware  # comes with gradio

    from glinpaint_jax.web.app import CSS, make_app, theme
    from glinpaint_jax.web.safety import LimitBody
    from glinpaint_jax.web.uploads import remove_older

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    app = make_app(completer, folder, limits)
    max_bytes = limits.megabytes * 10**6
    try:
        app.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            max_file_size=max_bytes,
            app_kwargs={"middleware": [Middleware(LimitBody, max_bytes=max_bytes)]},
            share=False,
            enable_monitoring=False,
            run_history=False,
            mcp_server=False,
            theme=theme(),
            css=CSS,
            footer_links=["api"],
            ssr_mode=False,
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError:
        address = f"{arguments.host}:{arguments.port}"
        raise UserError(f"cannot listen on {address}; try another --port or --host") from None
    print(
        f"serving {arguments.checkpoint or arguments.method} on http://{arguments.host}:{arguments.port}",
        flush=True,
    )
    while not stop.wait(60):
        remove_older(folder, KEPT_SECONDS)
    print("stopped", file=sys.stderr)
    app.close(verbose=False)
