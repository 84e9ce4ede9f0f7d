"""What Gradio leaves open to those who do not use the page: sizes, counts, downloads."""

from collections.abc import Awaitable, Callable
from typing import Any

import PIL.Image

from glinpaint_jax.errors import import_extra

BODY_SLACK = 100_000  # what surrounds a file in a request

Message = dict[str, Any]


class LimitBody:
    """ASGI middleware: requests with larger bodies than `max_bytes` are answered with 413."""

    def __init__(self, app: Callable[..., Awaitable[None]], max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes + BODY_SLACK

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_bytes:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            return await send({"type": "http.response.body", "body": b"too large"})
        received = 0

        async def limited() -> Message:
            """For those who send in chunks and do not say how much."""
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > self.max_bytes else message

        return await self.app(scope, limited, send)


def patch_gradio(max_side: int) -> None:
    """For the whole process, since Gradio makes components anew for each session.

    No component downloads what a client names by an address. The value of an ImageEditor is what
    people paint: one RGBA layer of at most `max_side` pixels on a side, or None. Nothing else of
    what the page, or another client, sends it is decoded or kept in memory.
    """
    gr = import_extra("gradio")
    move = gr.blocks.Block.async_move_resource_to_block_cache

    async def move_local(component: Any, path: Any) -> Any:
        if str(path).lower().startswith(("http://", "https://")):
            raise gr.Error("send the file itself", print_exception=False)
        return await move(component, path)

    def preprocess(editor: Any, payload: Any) -> PIL.Image.Image | None:
        if payload is None or not payload.layers:
            return None
        with PIL.Image.open(payload.layers[0].path, formats=["PNG"]) as layer:
            if max(layer.size) > max_side:
                message = f"the painting is larger than {max_side} pixels"
                raise gr.Error(message, print_exception=False)
            return layer.convert("RGBA")

    gr.blocks.Block.async_move_resource_to_block_cache = move_local
    gr.ImageEditor.preprocess = preprocess
    gr.ImageEditor.accept_blobs = None  # the page sends files instead, which are limited
