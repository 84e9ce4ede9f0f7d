"""Runs the web server in this process."""

import contextlib
import socket
import threading

from glinpaint_jax.web.app import Limits, make_app, make_server
from tests.helpers.programs import wait_for

LIMITS = Limits(megapixels=1, megabytes=1, queue=64)


@contextlib.contextmanager
def serving(methods, limits=LIMITS, allowed_hosts=()):
    """Yields the address of a server."""
    server = make_server(make_app(methods, limits, "127.0.0.1", list(allowed_hosts)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
