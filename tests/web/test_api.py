"""Sends requests to the server: results, limits, many clients, strangers."""

import concurrent.futures
import contextlib
import io
import re
import socket
import threading

import httpx
import numpy as np
import PIL.Image
import pytest
import skimage.data

from glinpaint_jax import Completer
from glinpaint_jax.web.app import STATIC, Limits
from glinpaint_jax.web.methods import Methods
from tests.helpers.completers import Whitener
from tests.helpers.serving import serving, wait_for


def encode(image, file_format="PNG"):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, file_format)
    return buffer.getvalue()


def make_pair(size=(120, 160), offset=0):
    """A photograph and a hole, with the hole elsewhere for each offset."""
    height, width = size
    image = np.ascontiguousarray(np.roll(skimage.data.coffee(), offset, 1)[:height, :width])
    hole = np.zeros(size, bool)
    hole[30:70, 20 + offset : 60 + offset] = True
    return image, hole


IMAGE, HOLE = make_pair()
PHOTO, MASK = encode(IMAGE), encode(HOLE)
SMALL, WIDE = encode(np.ones((10, 10), bool)), encode(np.zeros((1000, 1200), np.uint8))


def post(address, path="complete", photo=PHOTO, mask=MASK, name="cup.png", **fields):
    files = {"photo": (name, photo), "mask": ("mask.png", mask)}
    headers = fields.pop("headers", {})
    return httpx.post(f"{address}/{path}", files=files, data=fields, headers=headers, timeout=60)


def pixels(answer):
    assert answer.status_code == 200, answer.text
    with PIL.Image.open(io.BytesIO(answer.content)) as image:
        return np.array(image)


def error(answer, status=400):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_complete(server, server_folder):
    answer = post(server)
    np.testing.assert_array_equal(pixels(answer), np.where(HOLE[..., None], 255, IMAGE))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="cup-completed.png"'
    assert answer.headers["X-Summary"].startswith("white%3A%208.33%20%25%20filled%20in")
    again = post(server, name="../../cup-completed.png")
    assert again.headers["Content-Disposition"] == 'attachment; filename="cup-completed.png"'
    wait_for(lambda: not list(server_folder.iterdir()))


def test_a_preview_is_the_photograph_as_it_is_completed(server):
    """Browsers show no TIFF, and not all of them turn a WebP as its EXIF data says."""
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    for file_format in ("TIFF", "WEBP"):
        photo = io.BytesIO()
        PIL.Image.fromarray(IMAGE).save(photo, file_format, exif=exif, lossless=True)
        answer = post(server, "preview", photo=photo.getvalue(), name=f"cup.{file_format}")
        assert answer.headers["Content-Type"] == "image/png"
        np.testing.assert_array_equal(pixels(answer), np.rot90(IMAGE, -1))


def test_a_mask_is_drawn_white_and_transparent(server):
    inner, outer = np.zeros_like(HOLE), np.zeros_like(HOLE)
    inner[33:67, 23:57] = outer[30:70, 20:60] = True
    for fields, hole in (({}, outer), ({"invert_mask": "1", "dilate_mask": "3"}, ~inner)):
        with PIL.Image.open(io.BytesIO(post(server, "mask", **fields).content)) as image:
            drawn = np.array(image.convert("RGBA"))
        np.testing.assert_array_equal(drawn[..., 3], 255 * hole)
        assert (drawn[hole] == 255).all()
    assert error(post(server, "mask", mask=SMALL)).startswith(
        "cup.png is 160x120, mask.png 10x10; make them the same size"
    )


def test_the_page_knows_methods_and_limits(server):
    answer = httpx.get(f"{server}/methods").json()
    assert [(one["name"], one["ready"]) for one in answer["methods"]] == [
        ("white", True),
        ("small", True),
        ("smooth", True),
        ("telea", True),
        ("navier-stokes", True),
        ("places", False),
        ("celeba_hq", False),
    ]
    assert (answer["default"], answer["megapixels"], answer["megabytes"]) == ("white", 1, 1)


def test_twenty_clients_at_once(server):
    """Each client gets its own photograph back."""

    def ask(number):
        image, hole = make_pair(offset=number)
        return pixels(post(server, photo=encode(image), mask=encode(hole))), image, hole

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        for got, image, hole in pool.map(ask, range(20)):
            np.testing.assert_array_equal(got, np.where(hole[..., None], 255, image))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"photo": b"no image", "name": "text.jpg"}, "text.jpg is not an image"),
        ({"mask": b"no image"}, "mask.png is not an image"),
        ({"mask": SMALL}, "cup.png is 160x120, mask.png 10x10; make them the same size"),
        ({"mask": encode(np.zeros((120, 160), bool))}, "there is no hole yet"),
        ({"photo": WIDE}, "cup.png has 1.2 megapixels, at most 1"),
        ({"mask": WIDE}, "mask.png has 1.2 megapixels, at most 1"),
        ({"photo": PHOTO + bytes(10**6)}, "cup.png has 1.0 MB, at most 1 are allowed"),
        ({"mask": PHOTO}, "mask.png is the photograph itself"),
        ({"method": "gan"}, "method='gan' must be one of white, small, smooth"),
        ({"blend": "blur"}, "blend='blur' must be one of auto, none"),
        ({"scale": "2"}, "scale=2.0 must be auto or"),
        ({"scale": "big"}, "scale='big' must be auto or"),
        ({"quality": "0"}, "quality='0' must be a whole number in 1..100"),
        ({"dilate_mask": "x"}, "dilate_mask='x' must be a whole number"),
        ({"colour": "red"}, "unknown field 'colour'; allowed: photo, mask, method"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(server, server_folder, fields, message):
    found = error(post(server, **fields))
    assert found.startswith(message) and "\n" not in found and str(server_folder) not in found
    assert list(server_folder.iterdir()) == []


@pytest.mark.parametrize("file_format", ["EPS", "ICO", "GIF", "PPM", "TGA"])
def test_other_formats_are_never_decoded(server, file_format):
    """PIL would pass EPS to Ghostscript, whatever the name."""
    other = encode(IMAGE, file_format)
    assert error(post(server, mask=other)).startswith("mask.png is not an image")
    assert error(post(server, photo=other)).startswith("cup.png is not an image")


def test_photographs_are_files_not_addresses(server):
    for value in ("http://example.org/a.png", "/etc/hostname", "file:///etc/hostname"):
        files = {"mask": ("mask.png", MASK)}
        answer = httpx.post(f"{server}/complete", files=files, data={"photo": value})
        assert error(answer).startswith("there is no photo; send a file")
    assert error(httpx.post(f"{server}/complete", data={"photo": "a"})).startswith("there is no")


def test_large_bodies_are_rejected(server):
    assert error(post(server, photo=bytes(2_200_000)), 413) == "at most 2 MB are allowed"

    def in_chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n\r\n'
        yield from [bytes(100_000)] * 100

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{server}/complete", content=in_chunks(), headers=headers)
    assert error(answer, 413) == "at most 2 MB are allowed"
    many = {f"f{number}": (None, "a") for number in range(50)}
    assert error(httpx.post(f"{server}/complete", files=many))
    assert error(post(server, method="a" * 5000))


class Blocker(Whitener):
    """Waits in `fill` until `go` is set; counts how many are there."""

    def __init__(self):
        self.go = threading.Event()
        self.inside, self.calls, self.most = 0, 0, 0

    def at_scale(self, scale):
        return self

    def fill(self, images, holes):
        self.inside, self.calls = self.inside + 1, self.calls + 1
        self.most = max(self.most, self.inside)
        self.go.wait(60)
        self.inside -= 1
        return super().fill(images, holes)


def test_one_completion_at_a_time_and_a_bounded_queue(tmp_path):
    blocker = Blocker()
    limits = Limits(megapixels=1, megabytes=1, queue=3)
    with (
        serving(Methods({"slow": blocker}), tmp_path, limits) as server,
        concurrent.futures.ThreadPoolExecutor(10) as pool,
    ):
        sent = [pool.submit(post, server) for _ in range(6)]
        wait_for(lambda: sum(answer.done() for answer in sent) == 2)
        # Those that do not complete have their own line.
        assert post(server, "preview").status_code == 200
        blocker.go.set()
        busy, refused = [answer.result() for answer in sent if answer.result().status_code != 200]
    assert error(busy, 503) == "3 requests are waiting already; try again in a minute"
    assert busy.headers["Retry-After"] == "60" and refused.status_code == 503
    assert (blocker.most, blocker.calls) == (1, 4)


def test_unfinished_uploads_keep_nobody_waiting(tmp_path):
    start = (
        b"POST /complete HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    limits = Limits(megapixels=1, megabytes=1, queue=1)
    with (
        serving(Methods({"white": Whitener()}), tmp_path, limits) as server,
        contextlib.ExitStack() as idle,
    ):
        for _ in range(10):
            address = server.removeprefix("http://").split(":")
            idle.enter_context(socket.create_connection(address)).sendall(start)
        wait_for(lambda: len(list(tmp_path.iterdir())) == 10)
        assert post(server).status_code == 200


def test_a_removed_temporary_folder_is_made_again(tmp_path):
    folder = tmp_path / "uploads"
    with serving(Methods({"white": Whitener()}), folder) as server:
        for _ in range(2):
            assert post(server).status_code == 200
            wait_for(lambda: not list(folder.iterdir()))
            folder.rmdir()


def test_a_visitor_who_leaves_the_queue_is_skipped(tmp_path):
    blocker = Blocker()
    with (
        serving(Methods({"slow": blocker}), tmp_path) as server,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(post, server)
        wait_for(lambda: blocker.inside)
        with contextlib.suppress(httpx.ReadTimeout):
            files = {"photo": ("cup.png", PHOTO), "mask": ("mask.png", MASK)}
            httpx.post(f"{server}/complete", files=files, timeout=0.3)
        blocker.go.set()
        assert first.result().status_code == 200
        wait_for(lambda: not list(tmp_path.iterdir()))
    assert blocker.calls == 1


def test_stopping_answers_those_who_wait(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("glinpaint_jax.web.app.SHUTDOWN_SECONDS", 1)
    blocker = Blocker()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with serving(Methods({"slow": blocker}), tmp_path) as server:
            waiting = [pool.submit(post, server) for _ in range(2)]
            wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        for answer in waiting:
            assert error(answer.result(), 503) == "the server is stopping; try again later"
        assert list(tmp_path.iterdir()) == []
        blocker.go.set()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Host": "evil.example"}, "this server is not called 'evil.example'"),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, "this server is not called"),
        ({"Host": "[::1"}, "this server is not called"),
        ({"Origin": "http://evil.example"}, "requests from 'http://evil.example' are not allowed"),
        ({"Origin": "http://127.0.0.1:1"}, "requests from"),
        ({"Origin": "null"}, "requests from 'null'"),
        ({"Host": "localhost:80", "Origin": "http://localhost:80"}, None),
        ({"Host": "192.0.2.7", "Origin": "https://192.0.2.7"}, None),
        ({"Host": "[::1]:7860"}, None),
        ({"Host": "Proxy:1"}, None),
        ({"Origin": "https://proxy"}, None),
    ],
)
def test_other_sites_are_refused(server, headers, message):
    answer = post(server, "preview", headers=headers)
    if message is None:
        assert answer.status_code == 200, answer.text
    else:
        assert error(answer, 403).startswith(message)
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_every_answer_has_security_headers(server):
    for path, status in (("", 200), ("page.js", 200), ("methods", 200), ("nothing", 404)):
        answer = httpx.get(f"{server}/{path}")
        assert answer.status_code == status
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_loads_nothing_from_elsewhere():
    for path in STATIC.iterdir():
        found = set(re.findall(r"(?:https?:)?//[a-z][\w.]*\.[a-z]+", path.read_text()))
        assert found <= {"http://www.w3.org"}, path


def test_refused_requests_are_logged_in_one_line(tmp_path, capfd):
    paths = ("../../etc/passwd", "..%2f..%2fetc/passwd", "%00", "static/../app.py", "%0aline")
    requests = [(f"GET /{path} HTTP/1.0\r\nHost: localhost", b"404") for path in paths]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with serving(Methods({"white": Whitener()}), tmp_path) as server:
        for request, status in [*requests, ("GARBAGE", b"400")]:
            with socket.create_connection(server.removeprefix("http://").split(":")) as client:
                client.sendall(f"{request}\r\n\r\n".encode())
                assert status in client.makefile("rb").readline()
        assert error(httpx.post(f"{server}/complete", content=b"garbage", headers=headers))
        assert error(httpx.put(f"{server}/complete"), 405)
    lines = capfd.readouterr().err.splitlines()
    lines = [line for line in lines if line != "WARNING:  Invalid HTTP request received."]
    assert len(lines) == 7, lines
    assert lines[0] == "127.0.0.1: GET '/../../etc/passwd': 404"


def test_checkpoints_by_name_are_loaded_when_first_asked_for(tmp_path, monkeypatch):
    """While they are downloaded, the page learns how far."""
    go, states = threading.Event(), []

    def locate(name, report):
        report(30, 120)
        states.append(name)
        go.wait(60)
        return tmp_path / name

    monkeypatch.setattr("glinpaint_jax.web.methods.locate", locate)
    monkeypatch.setattr(Completer, "load", lambda path, blend: Whitener())

    def state(server):
        return httpx.get(f"{server}/methods").json()["methods"][-2]

    with (
        serving(Methods({"white": Whitener()}), tmp_path) as server,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        files = {"method": (None, "places")}
        loading = pool.submit(httpx.post, f"{server}/load", files=files, timeout=60)
        wait_for(lambda: states)
        assert state(server)["progress"] == 0.25 and not state(server)["ready"]
        assert post(server).status_code == 200  # others are served meanwhile
        go.set()
        assert loading.result().status_code == 204
        assert state(server)["ready"] and state(server)["progress"] is None
        assert post(server, method="places").headers["X-Summary"].startswith("Places")
    assert states == ["places"]
