"""The web page and its API (the extra `web`). The server keeps nothing between requests.

GET  /methods    what can fill holes, and the limits
POST /complete   photo, mask and options -> the completed file
GET  /queue      ?job=ID of a POST /complete?job=ID -> {"before": how many come first, or null}
POST /preview    photo -> PNG, for formats that browsers do not show, such as TIFF
POST /mask       photo, mask and options -> the hole: white on transparent (PNG)

Errors are JSON: {"error": a sentence}.
"""

import asyncio
import functools
import io
import logging
import mimetypes
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import anyio.from_thread
import anyio.to_thread
import PIL.Image
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.completer import Check, Completer
from glinpaint_jax.inference.methods import METHODS
from glinpaint_jax.inference.photos import read_photo
from glinpaint_jax.web import uploads
from glinpaint_jax.web.safety import HostCheck

STATIC = Path(__file__).parent / "static"
FORM_BYTES = 100_000  # of a request besides its two files
SHUTDOWN_SECONDS = 5  # for answers that are being sent


class Limits(NamedTuple):
    megapixels: int  # of a photograph
    megabytes: int  # of a file
    queue: int  # waiting requests of each kind


def make_app(
    completers: dict[str, Completer], limits: Limits, bound: str, allowed_hosts: list[str]
) -> Starlette:
    """Makes the ASGI application. It offers `completers`, the first at the start, and METHODS."""
    methods = completers | {name: Completer(method=name) for name in METHODS}
    max_bytes, max_pixels = limits.megabytes * 10**6, limits.megapixels * 10**6
    read = functools.partial(uploads.read_job, max_bytes=max_bytes, max_pixels=max_pixels)

    def complete(form: FormData, check: Check) -> Response:
        content, name, summary, shown = uploads.complete(methods, read(form), check)
        named = f'="{name}"' if quote(name) == name else f"*=utf-8''{quote(name)}"
        disposition = f"attachment; filename{named}"
        headers = {"X-Summary": quote(summary), "Content-Disposition": disposition}
        if form.get("preview") == "1":
            headers["X-File-Bytes"], content = str(len(content)), content + png(shown).body
        return Response(content, headers=headers, media_type=mimetypes.guess_type(name)[0])

    def preview(form: FormData, _: Check) -> Response:
        photo = read_photo(uploads.read_upload(form, "photo", max_bytes), max_pixels)
        return png(photo.image)

    def mask(form: FormData, _: Check) -> Response:
        return png(PIL.Image.fromarray(read(form).hole), transparency=0)

    async def queue(request: Request) -> Response:
        job, waiting = request.query_params.get("job", ""), line.copy()
        jobs = [one.query_params.get("job") for one in waiting if not await one.is_disconnected()]
        return JSONResponse({"before": jobs.index(job) if job in jobs else None})

    def describe(_: Request) -> Response:
        titled = [{"name": name, "title": uploads.TITLES.get(name, name)} for name in methods]
        return JSONResponse({"methods": titled} | limits._asdict())

    line: list[Request] = []  # for /complete; the first is being filled
    forms = [
        Route(f"/{answer.__name__}", form_endpoint(answer, limits, waiting), methods=["POST"])
        for answer, waiting in ((complete, line), (preview, []), (mask, []))
    ]
    page = Mount("/", StaticFiles(directory=STATIC, html=True))
    return Starlette(
        routes=[*forms, Route("/methods", describe), Route("/queue", queue), page],
        middleware=[Middleware(HostCheck, bound=bound, allowed=allowed_hosts)],
        exception_handlers={HTTPException: show_error},
    )


def make_server(app: Starlette) -> uvicorn.Server:
    """Makes the HTTP server, which logs a line for each error."""
    # It warns of each malformed form, which HostCheck logs too.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    quiet = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(
        app, lifespan="off", ws="none", timeout_graceful_shutdown=SHUTDOWN_SECONDS, **quiet
    )
    return uvicorn.Server(config)


async def show_error(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def form_endpoint(
    answer: Callable[[FormData, Check], Response], limits: Limits, line: list[Request]
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Makes an endpoint that reads a form, waits for its turn, and answers in a thread.

    Answers the first request in `line`; a queue of others waits. Uploads do not count until they
    are complete. `answer` may call its second argument, which raises if the visitor has left.
    """
    max_bytes = 2 * limits.megabytes * 10**6 + FORM_BYTES
    turn = anyio.CapacityLimiter(1)

    async def endpoint(request: Request) -> Response:
        def check() -> None:
            if anyio.from_thread.run(request.is_disconnected):
                raise ClientDisconnect

        size = request.headers.get("content-length", "")
        if not size.isdecimal() or "transfer-encoding" in request.headers:
            raise HTTPException(411, "the request must say its Content-Length")
        if int(size) > max_bytes:
            raise HTTPException(413, f"at most {max_bytes / 1e6:.0f} MB are allowed")
        try:
            async with request.form(max_files=2, max_fields=10, max_part_size=1000) as form:
                await request.is_disconnected()  # if asked, uvicorn reads on and learns who leaves
                # Nothing may be awaited between this check and the queue.
                if len(line) > limits.queue:
                    full = f"{limits.queue} requests are waiting already; try again in a minute"
                    raise HTTPException(503, full, {"Retry-After": "60"})
                line.append(request)
                try:
                    async with turn:
                        if await request.is_disconnected():
                            raise ClientDisconnect
                        return await anyio.to_thread.run_sync(answer, form, check)
                finally:
                    line.remove(request)
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        except ClientDisconnect:
            return Response(status_code=204)  # nobody receives it
        except asyncio.CancelledError:
            raise HTTPException(503, "the server is stopping; try again later") from None

    return endpoint


def png(image: PIL.Image.Image, **options: int) -> Response:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, **options)
    return Response(buffer.getvalue(), media_type="image/png")
