"""The page in the browser, and its API, by Gradio (the extra `web`)."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Bool

from glinpaint_jax.errors import UserError
from glinpaint_jax.extras import import_extra
from glinpaint_jax.inference.blend import KINDS, blend
from glinpaint_jax.inference.completer import Completer, refuse_other_size
from glinpaint_jax.inference.photos import FORMATS, Photo, read_mask, read_photo, write_photo

TITLE = "glinpaint"
# Painted on and compared in this size at most; the photograph itself is completed in its own.
PREVIEW = 1280
COLOUR = "#ff2d78"
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
#head { margin: 0.4rem 0 0.6rem; }
#head h1 { font-size: 1.5rem; margin: 0 0 0.15rem; }
#head p { margin: 0; color: var(--body-text-color-subdued); }
"""


class Limits(NamedTuple):
    megapixels: int  # of a photograph
    megabytes: int  # of a file
    queue: int  # completions waiting or running


def make_app(completer: Completer, folder: Path, limits: Limits) -> Any:
    """A gradio.Blocks, not launched. Results are written to `folder`."""
    gr = import_extra("gradio")

    def in_words(function: Callable[..., Any], *arguments: Any) -> Any:
        """Its result; what a person can mend is shown to them."""
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(str(error), title="Not completed", print_exception=False) from None

    def opened(photo: str | None) -> dict[str, Any] | None:
        """What is painted on."""
        if photo is None:
            return None
        shown = preview(in_words(read_upload, read_photo, photo, limits).image)
        return {"background": shown, "layers": [], "composite": shown}

    def pressed(photo: str | None, editor: dict[str, Any] | None, mask: str | None, kind: str):
        started = time.perf_counter()
        layers = [] if editor is None else editor["layers"]
        before, hole, after, path = in_words(
            complete_upload, completer, photo, mask, layers, kind, folder, limits
        )
        width, height = after.size
        said = (
            f"**{width} x {height}**, {100 * hole.mean():.2g} % filled "
            f"in {time.perf_counter() - started:.1f} s. All other pixels are untouched."
        )
        return (preview(before), preview(after)), gr.DownloadButton(value=path, visible=True), said

    def complete(photo: str, mask: str, blend: str = "none") -> str:
        """Fills the white of `mask` in `photo`, two files of the same size."""
        *_, path = in_words(complete_upload, completer, photo, mask, [], blend, folder, limits)
        return path

    blends = [("leave the seam", "none"), ("Poisson", "poisson"), ("Telea + Poisson", KINDS[-1])]
    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "complete"}
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Open a photograph, paint over what should go, press Complete. "
            f"Up to {limits.megapixels} megapixels; files are deleted soon after.</p>",
            elem_id="head",
        )
        with gr.Row(equal_height=False):
            with gr.Column():
                photo = gr.File(
                    label="Photograph", file_types=list(FORMATS), height=130, elem_id="photo"
                )
                editor = gr.ImageEditor(
                    label="Paint the hole",
                    type="pil",
                    format="png",
                    sources=(),
                    placeholder="Open a photograph",
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(colors=[COLOUR], default_color=COLOUR, color_mode="fixed"),
                    eraser=gr.Eraser(),
                    buttons=["fullscreen"],
                    height=500,
                    elem_id="editor",
                )
                button = gr.Button("Complete", variant="primary", elem_id="complete")
                with gr.Accordion("Mask file, blending", open=False, elem_id="more"):
                    mask = gr.File(
                        label="Mask: white where to fill; painting adds to it",
                        file_types=list(FORMATS),
                        height=130,
                        elem_id="mask",
                    )
                    kind = gr.Radio(blends, value="none", label="Blending", elem_id="blend")
            with gr.Column():
                slider = gr.ImageSlider(
                    label="Before and after",
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    height=690,
                    max_height=690,
                    elem_id="result",
                )
                said = gr.Markdown(elem_id="said")
                download = gr.DownloadButton(
                    "Download", visible=False, variant="primary", elem_id="download"
                )
        photo.change(opened, photo, editor, api_visibility="private", show_progress="hidden")
        button.click(
            pressed,
            [photo, editor, mask, kind],
            [slider, download, said],
            api_visibility="private",
            **one_at_a_time,
        )
        with gr.Row(visible=False):  # what the API takes and gives
            given = [gr.File(label="photo"), gr.File(label="mask")]
            given += [gr.Radio(KINDS, value="none", label="blend")]
            gr.Button().click(
                complete, given, gr.File(label="completed"), api_name="complete", **one_at_a_time
            )
    app.queue(max_size=limits.queue)
    return app


def theme() -> Any:
    """Gradio's, with the system's fonts: nothing is loaded from elsewhere."""
    gr = import_extra("gradio")
    return gr.themes.Soft(
        primary_hue="pink",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def read_upload(read: Callable[..., Any], path: str, limits: Limits) -> Any:
    """What `read` makes of a file. Raises UserError, which tells the file's name but not its place.

    As `read` does, for example where the file has too many pixels.
    """
    try:
        return read(Path(path), max_pixels=limits.megapixels * 10**6)
    except UserError as error:
        raise UserError(str(error).replace(path, Path(path).name)) from None


def complete_upload(
    completer: Completer,
    photo: str | None,
    mask: str | None,
    layers: list[PIL.Image.Image],
    kind: str,
    folder: Path,
    limits: Limits,
) -> tuple[PIL.Image.Image, Bool[np.ndarray, "h w"], PIL.Image.Image, str]:
    """Before, the hole, after, and the file that was written, in the photograph's own format.

    The hole is what `mask` shows and what is painted on `layers`, stretched to the photograph.
    Raises UserError for what cannot be completed.
    """
    if photo is None:
        raise UserError("there is no photograph yet; open one first")
    original: Photo = read_upload(read_photo, photo, limits)
    width, height = original.image.size
    hole = np.zeros((height, width), bool)
    if mask is not None:
        uploaded = read_upload(read_mask, mask, limits)
        refuse_other_size(hole.shape, uploaded.shape)
        hole |= uploaded
    for layer in layers:
        hole |= painted(layer, height, width)
    if not hole.any():
        raise UserError("there is no hole yet; paint over what should go, or upload a mask")
    pixels = blend(completer.fill([original.rgb], [hole])[0], hole, kind)
    completed = original.with_hole_filled(pixels, hole)
    suffixes = {name: suffix for suffix, name in reversed(FORMATS.items())}
    suffix = suffixes[original.file_format]
    place = Path(tempfile.mkdtemp(dir=folder)) / f"{Path(photo).stem}-completed{suffix}"
    write_photo(completed, place)
    return original.image, hole, completed.image, str(place)


def painted(layer: PIL.Image.Image, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Where a layer of any size has been painted on, stretched to `height` x `width`."""
    alpha = np.uint8(255) * (np.array(layer.getchannel("A")) > 0)
    return cv2.resize(alpha, (width, height), interpolation=cv2.INTER_LINEAR) > 127


def preview(image: PIL.Image.Image) -> PIL.Image.Image:
    """RGB, no side longer than PREVIEW; what is transparent is white."""
    shown = image.convert("RGBA")
    shown.thumbnail((PREVIEW, PREVIEW))
    white = PIL.Image.new("RGBA", shown.size, "white")
    return PIL.Image.alpha_composite(white, shown).convert("RGB")


def remove_older(folder: Path, seconds: int) -> None:
    """Files in `folder` not written to for so long."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another may have removed it
            if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                path.unlink()
