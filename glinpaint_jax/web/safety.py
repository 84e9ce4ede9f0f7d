"""Keeps strangers out: requests from other sites, and bodies that are too large."""

import ipaddress
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
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

App = Callable[..., Awaitable[None]]
Message = dict[str, Any]


class UploadLimit:
    """ASGI middleware: answers 413 to a request whose body has more than `max_bytes`."""

    def __init__(self, app: App, max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, f"at most {self.max_bytes / 1e6:.0f} MB are allowed")
            return message

        await self.app(scope, receive_counted, send)


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
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _host_name(f"//{host}")
        if name not in self.names and not _is_address(name):
            return f"this server is not called {name!r}; start it with --allow-host NAME"
        # A proxy may change Host, but not Origin.
        is_own = origin is None or origin.lower().partition("://")[2] == host.lower()
        if not is_own and _host_name(origin) not in self.allowed:
            return f"requests from {origin!r} are not allowed; use this server's own page"
        return None


def _host_name(url: str) -> str:
    try:
        return urlsplit(url.lower()).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
