"""The web page and its API, built with Gradio (the extra `web`)."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image

from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.inference.blend import KINDS
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.inference.masks import describe_doubt
from glinpaint_jax.inference.photos import FORMATS, read_photo
from glinpaint_jax.web.safety import patch_gradio
from glinpaint_jax.web.uploads import (
    PREVIEW,
    Limits,
    Result,
    complete_upload,
    make_preview,
    read_upload,
)

TITLE = "glinpaint"
COLOUR = "#ff2d78"
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
#head { margin: 0.4rem 0 0.6rem; }
#head h1 { font-size: 1.5rem; margin: 0 0 0.15rem; }
#head p { margin: 0; color: var(--body-text-color-subdued); }
"""


def make_app(completer: Completer, folder: Path, limits: Limits) -> Any:
    """Builds the gradio.Blocks, without launching it. Results are written to `folder`."""
    gr = import_extra("gradio")
    patch_gradio(PREVIEW)
    on_open, on_press, complete = make_handlers(completer, folder, limits)
    private = {"api_visibility": "private"}
    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "complete"}
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Open a photograph, paint over what should go, press Complete. "
            f"Up to {limits.megapixels} megapixels; files are deleted soon after.</p>",
            elem_id="head",
        )
        with gr.Row(equal_height=False):
            with gr.Column():
                photo, editor, button, mask, kind = _add_inputs(gr, completer.default_blend)
            with gr.Column():
                outputs = _add_outputs(gr)
        photo.change(on_open, photo, [editor, *outputs], show_progress="hidden", **private)
        button.click(on_press, [photo, editor, mask, kind], outputs, **one_at_a_time, **private)
        with gr.Row(visible=False):  # the API's inputs and output
            files = [gr.File(label="photo"), gr.File(label="mask")]
            inputs = [*files, gr.Radio(KINDS, value=completer.default_blend, label="blend")]
            gr.Button().click(
                complete, inputs, gr.File(label="completed"), api_name="complete", **one_at_a_time
            )
    # api_open=False rejects requests that bypass the queue.
    app.queue(max_size=limits.queue, api_open=False)
    return app


def _add_inputs(gr: Any, default_blend: str) -> tuple[Any, ...]:
    """Adds the photograph, editor, Complete button, mask and blending."""
    photo = gr.File(label="Photograph", file_types=list(FORMATS), height=130, elem_id="photo")
    editor = gr.ImageEditor(
        label="Paint the hole",
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
            label="Mask: white is filled; painting adds to it",
            file_types=list(FORMATS),
            height=130,
            elem_id="mask",
        )
        blends = [
            ("leave the seam", "none"),
            ("Poisson", "poisson"),
            ("Telea + Poisson", KINDS[-1]),
        ]
        kind = gr.Radio(blends, value=default_blend, label="Blending", elem_id="blend")
    return photo, editor, button, mask, kind


def _add_outputs(gr: Any) -> list[Any]:
    """Adds the before/after slider, download button and summary."""
    slider = gr.ImageSlider(
        label="Before and after",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        height=690,
        max_height=690,
        elem_id="result",
    )
    summary = gr.Markdown(elem_id="summary")
    download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="download")
    return [slider, download, summary]


def make_handlers(
    completer: Completer, folder: Path, limits: Limits
) -> tuple[Callable[..., Any], ...]:
    """Makes the handlers for opening a photograph, pressing Complete, and the API."""
    gr = import_extra("gradio")

    def show_errors(function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `function`; shows a UserError on the page."""
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(str(error), title="Not completed", print_exception=False) from None

    def empty_result() -> tuple[Any, ...]:
        return None, gr.DownloadButton(value=None, visible=False), ""

    def on_open(photo: str | None) -> Iterator[tuple[Any, ...]]:
        """Yields the editor's image and an empty result."""
        yield gr.skip(), *empty_result()
        if photo is None:
            yield None, *empty_result()
        else:
            image = make_preview(show_errors(read_upload, read_photo, photo, limits).image)
            yield {"background": image, "layers": [], "composite": image}, *empty_result()

    def on_press(
        photo: str | None, layer: PIL.Image.Image | None, mask: str | None, kind: str
    ) -> Iterator[tuple[Any, ...]]:
        """Yields an empty result, then the images, the download button and a summary."""
        yield empty_result()
        started = time.perf_counter()
        result = show_errors(complete_upload, completer, photo, mask, layer, kind, folder, limits)
        summary = summarize(result, time.perf_counter() - started)
        images = make_preview(result.before), make_preview(result.after)
        yield images, gr.DownloadButton(value=str(result.path), visible=True), summary

    def complete(photo: str, mask: str, blend: str = "none") -> str:
        """Fills the white of `mask` in `photo`, two files of the same size."""
        arguments = completer, photo, mask, None, blend, folder, limits
        return str(show_errors(complete_upload, *arguments).path)

    return on_open, on_press, complete


def summarize(result: Result, seconds: float) -> str:
    """Returns Markdown: the size, what was filled, and what is unusual about it."""
    width, height = result.after.size
    filled = f"{100 * result.hole.mean():.3g} % filled in {seconds:.1f} s."
    others = (
        "All other pixels are unchanged."
        if result.lossless
        else "The file is re-encoded, so other pixels may change slightly."
    )
    doubt = describe_doubt(result.hole)
    note = f" Note: {doubt}" if doubt else ""
    return f"**{width} x {height}**, {filled} {others}{note}"


def theme() -> Any:
    """Gradio's theme with system fonts, so that the page loads nothing from other servers."""
    gr = import_extra("gradio")
    return gr.themes.Soft(
        primary_hue="pink",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
