"""The web page and its API (the extra `web`). The server keeps nothing between requests.

GET  /methods    what can fill holes, and the limits
POST /complete   photo, mask and Options -> the completed file
POST /preview    photo -> what the page shows of it (JPEG)
POST /mask       photo, mask and Options -> the hole, in the preview's size (PNG)
POST /load       method -> 204 when it is ready; GET /methods tells the progress

Errors are JSON: {"error": a sentence}.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from glinpaint_jax.data.images import FORMATS, UNSUPPORTED
from glinpaint_jax.errors import UserError
from glinpaint_jax.web.methods import Methods
from glinpaint_jax.web.safety import BodyError, Guard, Uploads, drain
from glinpaint_jax.web.uploads import (
    PREVIEW,
    Limits,
    Upload,
    complete_upload,
    draw_mask,
    make_preview,
    parse_options,
)

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
UPLOAD_SECONDS = 600
SHUTDOWN_SECONDS = 5  # for answers that are being sent

# Answers a form; `folder` is deleted after the response has been sent.
Answer = Callable[[FormData, Path], Response]


def make_app(
    methods: Methods, folder: Path, limits: Limits, bound: str, allowed_hosts: list[str]
) -> Starlette:
    """Makes the ASGI application. Requests have temporary files in `folder`."""

    def complete(form: FormData, place: Path) -> Response:
        result = complete_upload(methods, *read_form(form, place, methods), place, limits)
        headers = {"X-Summary": quote(result.summary)}
        return FileResponse(result.path, headers=headers, filename=result.name)

    def preview(form: FormData, place: Path) -> Response:
        path, size = make_preview(save(form, "photo", place), place, limits)
        return FileResponse(path, headers={"X-Size": "{}x{}".format(*size)})

    def mask(form: FormData, place: Path) -> Response:
        return FileResponse(draw_mask(*read_form(form, place, methods), place, limits))

    def load(form: FormData, place: Path) -> Response:
        methods.get(str(form.get("method", "")))
        return Response(status_code=204)

    def describe(_: Request) -> Response:
        return JSONResponse(
            {
                "methods": methods.describe(),
                "default": methods.default,
                "megapixels": limits.megapixels,
                "megabytes": limits.megabytes,
                "preview": PREVIEW,
            }
        )

    uploads = Uploads(limits.megabytes * 10**6)
    answers = ((complete, 1), (preview, 2), (mask, 2), (load, 1))
    posts = [
        Route(
            f"/{answer.__name__}",
            Work(answer, workers, limits.queue, uploads, folder),
            methods=["POST"],
        )
        for answer, workers in answers
    ]
    return Starlette(
        routes=[*posts, Route("/methods", describe), *make_static_routes()],
        middleware=[Middleware(Guard, bound=bound, allowed=allowed_hosts)],
        exception_handlers={HTTPException: show_error},
    )


def make_server(app: Starlette) -> uvicorn.Server:
    """Makes the HTTP server, which logs a line for each error."""
    # It warns of each malformed form, which Guard logs too.
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


def make_static_routes() -> list[Route]:
    """Returns a route for each file of the page, so that no request's path reaches the disk."""

    def serve(path: Path) -> Callable[[Request], Response]:
        content, media_type = path.read_bytes(), TYPES[path.suffix]
        return lambda _: Response(content, media_type=media_type)

    routes = {f"/{path.name}": serve(path) for path in STATIC.iterdir()}
    routes["/"] = routes["/index.html"]
    return [Route(path, endpoint) for path, endpoint in routes.items()]


async def show_error(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Work:
    """An ASGI endpoint for POST: reads a form, waits for its turn, answers in a thread."""

    def __init__(self, answer: Answer, workers: int, queue: int, uploads: Uploads, folder: Path):
        self.answer = answer
        self.turns = anyio.CapacityLimiter(workers)
        self.room = workers + queue
        self.uploads = uploads
        self.folder = folder
        self.inside = 0

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        if self.inside >= self.room:
            await drain(receive, self.uploads.most)
            waiting = f"{self.inside} requests are waiting already; try again in a minute"
            raise HTTPException(503, waiting, {"Retry-After": "60"})
        self.inside += 1
        temporary = tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)
        try:
            with temporary as place, self.uploads.receiving(scope, receive) as counted:
                response = await self._respond(Request(scope, counted), Path(place))
                await response(scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            raise HTTPException(503, "the server is stopping; try again later") from None
        finally:
            self.inside -= 1

    async def _respond(self, request: Request, place: Path) -> Response:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise HTTPException(415, "the body must be multipart/form-data, as of curl -F")
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                form = await request.form(max_files=2, max_fields=10, max_part_size=1000)
        except BodyError as error:
            raise HTTPException(*error.args) from None
        except TimeoutError:
            raise HTTPException(408, f"the upload took over {UPLOAD_SECONDS} s") from None
        try:
            async with self.turns:
                if await request.is_disconnected():
                    raise ClientDisconnect
                return await anyio.to_thread.run_sync(self.answer, form, place)
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        finally:
            await form.close()


def read_form(form: FormData, place: Path, methods: Methods) -> tuple[Upload, Upload, Any]:
    """Saves the photograph and the mask, and reads the options."""
    fields = {name: str(form[name]) for name in form if name not in ("photo", "mask")}
    options = parse_options(fields, methods.default)
    return save(form, "photo", place), save(form, "mask", place), options


def save(form: FormData, field: str, place: Path) -> Upload:
    """Saves an uploaded file under a name of ours, with its suffix if that is an image's."""
    upload = form.get(field)
    if not isinstance(upload, UploadFile):
        raise UserError(f"there is no {field}; send a file as the form's field {field!r}")
    name = PurePath((upload.filename or field).replace("\\", "/")).name[:200] or field
    suffix = PurePath(name).suffix.lower()
    path = place / (field + (suffix if suffix in (*FORMATS, *UNSUPPORTED) else ""))
    with path.open("xb") as file:
        shutil.copyfileobj(upload.file, file)
    return Upload(name, path)
