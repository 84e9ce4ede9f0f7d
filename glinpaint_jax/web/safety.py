"""Keeps strangers out: requests from other sites, bodies that are too large or never end."""

import asyncio
import contextlib
import ipaddress
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
BODY_SLACK = 100_000  # bytes of a request besides its two files
DRAINED, DRAIN_SECONDS = 10, 60

App = Callable[..., Awaitable[None]]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


class BodyError(Exception):
    """A body is refused; its arguments are the HTTP status and a sentence."""


class Uploads:
    """Counts the bytes of all uploads that are held, in total and by visitor (address)."""

    def __init__(self, max_file: int):
        self.most = 2 * max_file + BODY_SLACK  # of a request: photograph and mask
        self.max_total, self.max_visitor = 20 * max_file, 10 * max_file
        self.held: Counter[str] = Counter()

    @contextlib.contextmanager
    def receiving(self, scope: Message, receive: Receive) -> Iterator[Receive]:
        """Yields a `receive` that raises BodyError; at the end, what it received is let go."""
        visitor, received = (scope.get("client") or ("",))[0], 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self.held[visitor] += size
            error = None
            if received > self.most:
                error = BodyError(413, f"at most {self.most / 1e6:.0f} MB are allowed")
            elif self.held.total() > self.max_total or self.held[visitor] > self.max_visitor:
                error = BodyError(507, "too many uploads at once; try again in a minute")
            if error:
                if message.get("more_body"):
                    await drain(receive, self.most)
                raise error
            return message

        try:
            yield receive_counted
        finally:
            self.held[visitor] -= received
            self.held += Counter()  # drops visitors without uploads


async def drain(receive: Receive, most: int) -> None:
    """Discards the rest of a body: a client that is still sending would miss the answer.

    Gives up after DRAINED times `most` bytes and DRAIN_SECONDS.
    """
    received, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while more and received < DRAINED * most:
                message = await receive()
                received += len(message.get("body", b""))
                more = message.get("more_body", False)


class Guard:
    """ASGI middleware: checks Host and Origin, adds security headers, logs what was refused.

    Without the check of Host, a page whose name is made to point to this address (DNS rebinding)
    could use the server through a visitor's browser. Addresses need no such check.
    """

    def __init__(self, app: App, bound: str, allowed: list[str]):
        self.app = app
        self.allowed = {name.lower() for name in allowed}
        self.names = {"localhost", bound.lower(), *self.allowed}

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers.update(HEADERS)
                if message["status"] >= 400:
                    client, path = (scope.get("client") or ["?"])[0], scope["path"][:200]
                    line = f"{client}: {scope['method']} {path!r}: {message['status']}"
                    print(line, file=sys.stderr, flush=True)
            await send(message)

        reason = self._find_reason(Headers(scope=scope))
        app = JSONResponse({"error": reason}, 403) if reason else self.app
        await app(scope, receive, send_guarded)

    def _find_reason(self, headers: Headers) -> str | None:
        """Returns why a request is refused, or None."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _parse(f"//{host}")[0]
        if name not in self.names and not _is_address(name):
            return f"this server is not called {name!r}; start it with --allow-host NAME"
        if origin is not None:
            origin_name, netloc = _parse(origin)
            # A proxy may change Host, but not Origin.
            if netloc != host.lower() and origin_name not in self.allowed:
                return f"requests from {origin!r} are not allowed; use this server's own page"
        return None


def _parse(url: str) -> tuple[str, str]:
    """Returns the host name of a URL, and with its port; both are empty if it has none."""
    try:
        parts = urlsplit(url.lower())
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
