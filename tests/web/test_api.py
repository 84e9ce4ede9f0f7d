"""Uses the server as a program: results, limits, many clients, shutdown."""

import concurrent.futures
import contextlib
import signal
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import pytest
import skimage.data
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from glinpaint_jax import Completer
from tests.helpers.programs import assert_rejected, run
from tests.helpers.serving import serving


@pytest.fixture(scope="module")
def completer(finished_run):
    return Completer.load(finished_run[0], blend="none")


def make_files(folder, name, size=(120, 160), offset=0):
    """Writes a photograph and a mask; returns their paths, the pixels and the hole."""
    height, width = size
    image = np.ascontiguousarray(np.roll(skimage.data.coffee(), offset, 1)[:height, :width])
    hole = np.zeros(size, bool)
    hole[30:70, 20 + offset : 60 + offset] = True
    paths = folder / f"{name}.png", folder / f"{name}-mask.png"
    PIL.Image.fromarray(image).save(paths[0])
    PIL.Image.fromarray(hole).save(paths[1])
    return paths, image, hole


def connect(server, folder):
    return Client(server[0], verbose=False, download_files=str(folder))


def complete(client, photo, mask, blend="none"):
    files = handle_file(photo), handle_file(mask)
    return client.predict(*files, blend, api_name="/complete")


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.array(image)


def assert_equal_up_to_rounding(got, expected):
    """The server's process has fewer devices, which changes the order of sums."""
    np.testing.assert_allclose(got.astype(int), expected.astype(int), atol=1)
    assert (got != expected).mean() < 1e-3


def test_complete(server, completer, tmp_path):
    paths, image, hole = make_files(tmp_path, "cup")
    client = connect(server, tmp_path)
    plain = complete(client, *paths)
    assert Path(plain).name == "cup-completed.png"
    assert_equal_up_to_rounding(pixels(plain), completer(image, hole))
    blended = pixels(complete(client, *paths, blend="poisson"))
    np.testing.assert_array_equal(blended[~hole], image[~hole])
    assert (blended != pixels(plain)).any()


def test_twenty_clients_at_once(server, completer, tmp_path):
    """Each client gets its own photograph back."""

    def ask(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths, image, hole = make_files(folder, "cup", offset=number)
        return pixels(complete(connect(server, folder), *paths)), image, hole

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        for got, image, hole in pool.map(ask, range(20)):
            np.testing.assert_array_equal(got[~hole], image[~hole])
            assert_equal_up_to_rounding(got, completer(image, hole))


def test_errors_have_clear_messages(server, tmp_path):
    (photo, mask), _, _ = make_files(tmp_path, "cup")
    (tmp_path / "text.jpg").write_text("no image")
    PIL.Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    PIL.Image.new("L", (160, 120)).save(tmp_path / "black.png")
    PIL.Image.new("L", (1200, 1000)).save(tmp_path / "large.png")
    client = connect(server, tmp_path)
    for name, of, words in (
        ("text.jpg", mask, "text.jpg is not an image"),
        (photo, "text.jpg", "text.jpg is not an image"),
        (photo, "small.png", "the image is 160x120, its mask 10x10"),
        (photo, "black.png", "there is no hole yet"),
        ("large.png", "large.png", "large.png has 1.2 megapixels, at most 1 are allowed"),
    ):
        with pytest.raises(AppError, match="^" + words):
            complete(client, tmp_path / name, tmp_path / of)


def test_the_queue_cannot_be_bypassed(server, tmp_path):
    """Requests that would run immediately and concurrently are rejected."""
    files = [{"path": "a.png", "meta": {"_type": "gradio.FileData"}}] * 2
    for name in ("complete", "on_press"):
        answer = httpx.post(f"{server[0]}/gradio_api/api/{name}", json={"data": [*files, "none"]})
        assert answer.status_code in (401, 404), answer.text


def test_the_editor_accepts_one_layer_of_limited_size(server, tmp_path):
    """Gradio would decode large or many layers before our checks."""
    api = f"{server[0]}/gradio_api"
    (photo, _), _, _ = make_files(tmp_path, "cup")
    PIL.Image.new("RGBA", (6000, 6000)).save(tmp_path / "large.png")
    files = [("files", (p.name, p.read_bytes())) for p in (photo, tmp_path / "large.png")]
    paths = httpx.post(f"{api}/upload", files=files).json()
    photo, large = ({"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths)
    config = httpx.get(f"{server[0]}/config").json()
    (press_id,) = (one["id"] for one in config["dependencies"] if one["api_name"] == "on_press")
    (editor_id,) = (one["id"] for one in config["components"] if one["type"] == "imageeditor")

    painted = {"background": None, "layers": [large] * 9, "composite": None}
    event = {"data": [photo, painted, None, "none"], "fn_index": press_id, "session_hash": "a"}
    httpx.post(f"{api}/queue/join", json=event)
    with httpx.stream("GET", f"{api}/queue/data?session_hash=a", timeout=60) as answer:
        said = next(line for line in answer.iter_lines() if "process_completed" in line)
    assert "the painting is larger than 1280 pixels" in said
    blob = {"type": "layer", "index": 10**9, "id": "a"}
    event = {
        "data": blob,
        "component_id": editor_id,
        "fn_name": "accept_blobs",
        "session_hash": "a",
    }
    assert httpx.post(f"{api}/component_server", json=event).status_code == 404


def test_urls_and_other_files_are_not_read(server, tmp_path):
    (_, mask), _, _ = make_files(tmp_path, "cup")
    client = connect(server, tmp_path)
    for path in ("http://example.org/a.png", "/etc/hostname"):
        with pytest.raises(AppError):
            client.predict(
                photo={"path": path, "meta": {"_type": "gradio.FileData"}},
                mask=handle_file(mask),
                api_name="/complete",
            )


def test_large_files_are_rejected(server, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 600, 3), np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(ValueError, match="exceeds the maximum file size of 1000000 bytes"):
        complete(connect(server, tmp_path), tmp_path / "noise.png", tmp_path / "noise.png")
    # Clients that do not check the limit first get status 413.
    content = (tmp_path / "noise.png").read_bytes()
    answer = httpx.post(f"{server[0]}/gradio_api/upload", files={"files": ("a.png", content)})
    assert answer.status_code == 413
    answer = httpx.post(f"{server[0]}/gradio_api/upload", data={"text": "a" * 1_200_000})
    assert answer.status_code == 413

    def in_chunks():
        yield from [b"a" * 100_000] * 20

    with contextlib.suppress(httpx.RemoteProtocolError):  # the connection is closed
        answer = httpx.post(f"{server[0]}/gradio_api/upload", content=in_chunks())
        assert answer.status_code >= 400


def test_a_full_queue_rejects_further_requests(finished_run, tmp_path):
    (photo, mask), image, _ = make_files(tmp_path, "cup", size=(400, 600))
    with serving(finished_run[0], tmp_path, "--max-queue=1") as server:
        client = connect(server, tmp_path)

        def ask(_):
            try:
                return pixels(complete(client, photo, mask)).shape
            except QueueError as error:
                return str(error)

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = set(pool.map(ask, range(12)))
    assert image.shape in answers
    answers.remove(image.shape)
    assert len(answers) == 1 and answers.pop().startswith("Queue is full")


def test_shutdown_deletes_all_files(finished_run, tmp_path):
    (photo, mask), _, _ = make_files(tmp_path, "cup")
    place = tmp_path / "server"
    place.mkdir()
    with serving(finished_run[0], place) as (address, process):
        complete(connect((address, process), tmp_path), photo, mask)
        assert {path.name for path in place.rglob("*.png")} >= {"cup.png", "cup-completed.png"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert [path.name for path in place.iterdir()] == ["output.txt"]
        assert (place / "output.txt").read_text().splitlines()[1:] == ["stopped"]


def test_listens_on_localhost_only(server, finished_run):
    """And reports a port that is in use."""
    port = server[0].rpartition(":")[2]
    result = run("glinpaint_jax", "serve", f"--checkpoint={finished_run[0]}", f"--port={port}")
    assert_rejected(result, f"cannot listen on 127.0.0.1:{port}", "--port")
    assert httpx.get(server[0]).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.2:{port}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--checkpoint=nowhere"], "no checkpoint in"),
        (["--checkpoint=nowhere", "--port=70000"], "--port=70000 must be in 1..65535"),
        (["--checkpoint=x", "--method=telea"], "either --checkpoint or --method"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, expected):
    assert_rejected(run("glinpaint_jax", "serve", *arguments), expected)
