"""The page in the browser, and its API, by Gradio (the extra `web`)."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image

from glinpaint_jax.errors import UserError, import_extra
from glinpaint_jax.inference.blend import KINDS
from glinpaint_jax.inference.completer import Completer
from glinpaint_jax.inference.photos import FORMATS, read_photo
from glinpaint_jax.web.safety import patch_gradio
from glinpaint_jax.web.uploads import PREVIEW, Limits, complete_upload, preview, read_upload

TITLE = "glinpaint"
COLOUR = "#ff2d78"
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
#head { margin: 0.4rem 0 0.6rem; }
#head h1 { font-size: 1.5rem; margin: 0 0 0.15rem; }
#head p { margin: 0; color: var(--body-text-color-subdued); }
"""


def make_app(completer: Completer, folder: Path, limits: Limits) -> Any:
    """A gradio.Blocks, not launched. Results are written to `folder`."""
    gr = import_extra("gradio")
    patch_gradio(PREVIEW)
    opened, pressed, complete = make_handlers(completer, folder, limits)
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
        shown, private = [slider, download, said], {"api_visibility": "private"}
        photo.change(opened, photo, [editor, *shown], show_progress="hidden", **private)
        button.click(pressed, [photo, editor, mask, kind], shown, **one_at_a_time, **private)
        with gr.Row(visible=False):  # what the API takes and gives
            files = [gr.File(label="photo"), gr.File(label="mask")]
            given = [*files, gr.Radio(KINDS, value="none", label="blend")]
            gr.Button().click(
                complete, given, gr.File(label="completed"), api_name="complete", **one_at_a_time
            )
    # Not open: requests that go past the queue are refused.
    app.queue(max_size=limits.queue, api_open=False)
    return app


def make_handlers(
    completer: Completer, folder: Path, limits: Limits
) -> tuple[Callable[..., Any], ...]:
    """What happens when a photograph is opened, when Complete is pressed, and what the API does."""
    gr = import_extra("gradio")

    def in_words(function: Callable[..., Any], *arguments: Any) -> Any:
        """Its result; what a person can mend is shown to them."""
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(str(error), title="Not completed", print_exception=False) from None

    def nothing() -> tuple[Any, ...]:
        """In place of a result."""
        return None, gr.DownloadButton(value=None, visible=False), ""

    def opened(photo: str | None) -> Iterator[tuple[Any, ...]]:
        """What is painted on, and no result."""
        yield gr.skip(), *nothing()
        if photo is None:
            yield None, *nothing()
        else:
            shown = preview(in_words(read_upload, read_photo, photo, limits).image)
            yield {"background": shown, "layers": [], "composite": shown}, *nothing()

    def pressed(
        photo: str | None, layer: PIL.Image.Image | None, mask: str | None, kind: str
    ) -> Iterator[tuple[Any, ...]]:
        """What is shown of the result: pictures, the button and a sentence."""
        yield nothing()
        started = time.perf_counter()
        result = in_words(complete_upload, completer, photo, mask, layer, kind, folder, limits)
        width, height = result.after.size
        said = (
            f"**{width} x {height}**, {100 * result.hole.mean():.3g} % filled in "
            f"{time.perf_counter() - started:.1f} s. "
        ) + (
            "All other pixels are those of the photograph."
            if result.lossless
            else "The file is compressed anew, as the photograph is."
        )
        pictures = preview(result.before), preview(result.after)
        yield pictures, gr.DownloadButton(value=str(result.path), visible=True), said

    def complete(photo: str, mask: str, blend: str = "none") -> str:
        """Fills the white of `mask` in `photo`, two files of the same size."""
        given = completer, photo, mask, None, blend, folder, limits
        return str(in_words(complete_upload, *given).path)

    return opened, pressed, complete


def theme() -> Any:
    """Gradio's, with the system's fonts: nothing is loaded from elsewhere."""
    gr = import_extra("gradio")
    return gr.themes.Soft(
        primary_hue="pink",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
