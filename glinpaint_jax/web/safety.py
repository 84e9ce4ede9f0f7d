"""Closes Gradio's gaps for clients that bypass the page: sizes, counts, downloads."""

from collections.abc import Awaitable, Callable
from typing import Any

import PIL.Image

from glinpaint_jax.errors import import_extra

BODY_SLACK = 100_000  # bytes of a request besides the file

Message = dict[str, Any]


class LimitBody:
    """ASGI middleware that answers requests larger than a file of `max_bytes` with status 413."""

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

        async def receive_limited() -> Message:
            """Counts bytes, for bodies sent in chunks without a length."""
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > self.max_bytes else message

        return await self.app(scope, receive_limited, send)


def patch_gradio(max_side: int) -> None:
    """Restricts Gradio's components, for the whole process: Gradio recreates them for each session.

    Components no longer download URLs that clients send. An ImageEditor's value becomes the painted
    layer (RGBA, at most `max_side` pixels on a side) or None; nothing else that a client sends to
    it is decoded or kept in memory.
    """
    gr = import_extra("gradio")
    move = gr.blocks.Block.async_move_resource_to_block_cache

    async def move_local(component: Any, path: Any) -> Any:
        if str(path).lower().startswith(("http://", "https://")):
            raise gr.Error("URLs are not allowed; send the file itself", print_exception=False)
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
    gr.ImageEditor.accept_blobs = None  # the page sends files instead, whose size is limited
