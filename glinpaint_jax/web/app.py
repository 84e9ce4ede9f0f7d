"""The web page and its API (the extra `web`). The server keeps nothing between requests.

GET  /methods    what can fill holes, and the limits
POST /complete   photo, mask and Options -> the completed file
POST /preview    photo -> PNG, for formats that browsers do not show, such as TIFF
POST /mask       photo, mask and Options -> the hole: white on transparent (PNG)
POST /load       method -> 204 when it is ready; GET /methods tells the progress

Errors are JSON: {"error": a sentence}.
"""

import asyncio
import logging
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import anyio.to_thread
import PIL.Image
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from glinpaint_jax.errors import UserError
from glinpaint_jax.inference.photos import read_photo
from glinpaint_jax.web import uploads
from glinpaint_jax.web.methods import Methods
from glinpaint_jax.web.safety import HostCheck, UploadLimit

STATIC = Path(__file__).parent / "static"
FORM_BYTES = 100_000  # of a request besides its two files
SHUTDOWN_SECONDS = 5  # for answers that are being sent

# Answers a form; the folder is deleted after the response has been sent.
Answer = Callable[[FormData, Path], Response]


class Limits(NamedTuple):
    megapixels: int  # of a photograph
    megabytes: int  # of a file
    queue: int  # waiting requests of each kind


def make_app(
    methods: Methods, folder: Path, limits: Limits, bound: str, allowed_hosts: list[str]
) -> Starlette:
    """Makes the ASGI application. Requests have temporary files in `folder`."""
    max_bytes, max_pixels = limits.megabytes * 10**6, limits.megapixels * 10**6

    def read_form(form: FormData, folder: Path) -> tuple[Path, Path, uploads.Options]:
        fields = {name: str(form[name]) for name in form if name not in ("photo", "mask")}
        files = [save(form, name, folder, max_bytes) for name in ("photo", "mask")]
        return *files, uploads.parse_options(fields, methods.default)

    def complete(form: FormData, folder: Path) -> Response:
        path, summary = uploads.complete(methods, *read_form(form, folder), folder, max_pixels)
        return FileResponse(path, headers={"X-Summary": quote(summary)}, filename=path.name)

    def preview(form: FormData, folder: Path) -> Response:
        photo = read_photo(save(form, "photo", folder, max_bytes), max_pixels=max_pixels)
        photo.image.save(folder / "preview.png", compress_level=1)
        return FileResponse(folder / "preview.png")

    def mask(form: FormData, folder: Path) -> Response:
        _, hole = uploads.read_hole(*read_form(form, folder), max_pixels)
        PIL.Image.fromarray(hole).save(folder / "hole.png", transparency=0)
        return FileResponse(folder / "hole.png")

    def load(form: FormData, folder: Path) -> Response:
        methods.get(str(form.get("method", "")))
        return Response(status_code=204)

    def describe(_: Request) -> Response:
        description = {"methods": methods.describe(), "default": methods.default}
        return JSONResponse(description | limits._asdict())

    forms = [
        Route(f"/{answer.__name__}", FormEndpoint(answer, folder, limits.queue), methods=["POST"])
        for answer in (complete, preview, mask, load)
    ]
    page = Mount("/", StaticFiles(directory=STATIC, html=True))
    return Starlette(
        routes=[*forms, Route("/methods", describe), page],
        middleware=[
            Middleware(HostCheck, bound=bound, allowed=allowed_hosts),
            Middleware(UploadLimit, max_bytes=2 * max_bytes + FORM_BYTES),
        ],
        exception_handlers={HTTPException: show_error},
    )


def make_server(app: Starlette) -> uvicorn.Server:
    """Makes the HTTP server, which logs a line for each error."""
    # It warns of each malformed form, which HostCheck logs too.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )


async def show_error(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class FormEndpoint:
    """An ASGI endpoint for POST: reads a form, waits for its turn, answers in a thread.

    Answers one request at a time; at most `queue` others wait. Uploads do not count until they are
    complete.
    """

    def __init__(self, answer: Answer, folder: Path, queue: int):
        self.answer = answer
        self.folder = folder
        self.turn = anyio.CapacityLimiter(1)
        self.queue = queue

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have cleaned up
        temporary = tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)
        try:
            with temporary as folder:
                response = await self._respond(Request(scope, receive), Path(folder))
                await response(scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            raise HTTPException(503, "the server is stopping; try again later") from None

    async def _respond(self, request: Request, folder: Path) -> Response:
        async with request.form(max_files=2, max_fields=10, max_part_size=1000) as form:
            if (waiting := self.turn.statistics().tasks_waiting) >= self.queue:
                full = f"{waiting} requests are waiting already; try again in a minute"
                raise HTTPException(503, full, {"Retry-After": "60"})
            async with self.turn:
                if await request.is_disconnected():
                    raise ClientDisconnect
                try:
                    return await anyio.to_thread.run_sync(self.answer, form, folder)
                except UserError as error:
                    # Visitors see the names of their files, not the paths on this machine.
                    shown = re.sub(rf"{re.escape(str(folder))}/((photo|mask)/)?", "", str(error))
                    raise HTTPException(400, shown) from None


def save(form: FormData, field: str, folder: Path, max_bytes: int) -> Path:
    """Saves an uploaded file in a folder of its own; returns its path."""
    upload = form.get(field)
    if not isinstance(upload, UploadFile):
        raise UserError(f"there is no {field}; send a file as the form's field {field!r}")
    # The end of the visitor's name, without folders and control characters.
    name = re.sub(r"[\0-\x1f]|.*[/\\]", "", upload.filename or "")[-50:].strip(".") or field
    if (size := upload.size or 0) > max_bytes:
        allowed = f"at most {max_bytes / 1e6:.0f} are allowed"
        raise UserError(f"{name} has {size / 1e6:.1f} MB, {allowed}")
    path = folder / field / name
    path.parent.mkdir()
    with path.open("xb") as file:
        shutil.copyfileobj(upload.file, file)
    return path
