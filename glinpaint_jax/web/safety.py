"""Keeps requests from other sites out, and sets the headers that keep other sites off the page."""

import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

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

# An address, of IPv4 or IPv6, or a name; then a port.
HOST = re.compile(r"(?:(?P<address>[\d.]+|\[[\da-f:.]+\])|(?P<name>[^:\[\]/]+))(?::\d+)?")
App = Callable[..., Awaitable[None]]
Message = dict[str, Any]


class HostCheck:
    """ASGI middleware: checks Host and Origin, adds security headers, logs what was refused.

    Without the check of Host, a page whose name is made to point to this address (DNS rebinding)
    could use the server through a visitor's browser. Addresses need no such check.
    """

    def __init__(self, app: App, bound: str, allowed: list[str]):
        self.app = app
        self.allowed = {name.lower() for name in allowed}
        self.names = {"localhost", bound.lower(), *self.allowed}

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", [])).update(HEADERS)
                if message["status"] >= 400:
                    client, path = (scope.get("client") or ["?"])[0], scope["path"][:200]
                    line = f"{client}: {scope['method']} {path!r}: {message['status']}"
                    print(line, file=sys.stderr, flush=True)
            await send(message)

        reason = self._find_reason(Headers(scope=scope))
        app = JSONResponse({"error": reason}, 403) if reason else self.app
        await app(scope, receive, send_with_headers)

    def _find_reason(self, headers: Headers) -> str | None:
        """Returns why a request is refused, or None."""
        host, origin = headers.get("host", "").lower(), headers.get("origin", "").lower()
        called = HOST.fullmatch(host)
        if not called or (called["name"] not in self.names and not called["address"]):
            name = host.partition(":")[0]
            return f"this server is not called {name!r}; start it with --allow-host NAME"
        # A proxy may change Host, but not Origin.
        site = origin.partition("://")[2]
        asked = HOST.fullmatch(site)
        is_own = site == host or (asked is not None and asked["name"] in self.allowed)
        if origin and not is_own:
            return f"requests from {origin!r} are not allowed; use this server's own page"
        return None
