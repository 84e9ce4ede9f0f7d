"""A server of files that can fail in every way a real one does."""

import contextlib
import http.server
import threading


@contextlib.contextmanager
def serve(answers, default=lambda handler: handler.send_error(404)):
    """Serves `answers`, path -> function of a request handler, otherwise `default`; yields the URL.

    The server's `asked` lists the requested paths; `released` is set when it is asked to stop.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            server.asked.append(self.path)
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client has left
                answers.get(self.path, default)(self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, content, *, status=200, length=None, **headers):
    """Sends `content`; `length`, if given, is what the header promises ("" for no header)."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    length = len(content) if length is None else length
    if length != "":
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)


def file(content, **options):
    return lambda handler: send(handler, content, **options)


def redirect(target):
    return lambda handler: send(handler, b"", status=302, Location=target)


def stall(content):
    """Sends half of `content`, then nothing."""

    def answer(handler):
        send(handler, content[: len(content) // 2], length=len(content))
        handler.server.released.wait(20)

    return answer
