"""Sends requests to the server: results, limits, many clients, strangers."""

import concurrent.futures
import contextlib
import io
import socket
import threading

import httpx
import numpy as np
import PIL.Image
import pytest
import skimage.data

from tests.helpers.completers import Whitener
from tests.helpers.programs import wait_for
from tests.helpers.serving import LIMITS, serving
from tests.helpers.sources import encode

IMAGE = np.ascontiguousarray(skimage.data.coffee()[:120, :160])
HOLE = np.zeros((120, 160), bool)
HOLE[30:70, 20:60] = True
PHOTO, MASK = encode(IMAGE), encode(HOLE)
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def post(address, path="complete", photo=PHOTO, name="cup.png", headers=None, **fields):
    files = {"photo": (name, photo), "mask": ("mask.png", MASK)}
    url = f"{address}/{path}"
    return httpx.post(url, files=files, data=fields, headers=headers, timeout=60)


def connect(address):
    return socket.create_connection(address.removeprefix("http://").split(":"))


def send(address, path, photo=PHOTO):
    """Sends a form as `post` does; whoever closes the connection leaves."""
    request = httpx.Request("POST", f"{address}/{path}", files={"photo": photo, "mask": MASK})
    lines = [f"POST /{path} HTTP/1.1", *map(": ".join, request.headers.items()), "", ""]
    connection = connect(address)
    connection.sendall("\r\n".join(lines).encode() + request.read())
    return connection


def pixels(answer):
    assert answer.status_code == 200, answer.text
    with PIL.Image.open(io.BytesIO(answer.content)) as image:
        return np.array(image)


def error(answer, status=400):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_complete(server):
    answer = post(server)
    np.testing.assert_array_equal(pixels(answer), np.where(HOLE[..., None], 255, IMAGE))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="cup-completed.png"'
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Summary"].startswith("white%3A%208.33%20%25%20filled%20in")
    name = post(server, name="tür a.png").headers["Content-Disposition"]
    assert name == "attachment; filename*=utf-8''t%C3%BCr%20a-completed.png"


def test_photographs_are_files_not_addresses(server):
    for value in ("http://example.org/a.png", "/etc/hostname"):
        answer = httpx.post(f"{server}/complete", files={"photo": (None, value)})
        assert error(answer).startswith("there is no photo; send a file")


def test_large_bodies_are_rejected(server):
    assert error(post(server, photo=bytes(2_200_000)), 413) == "at most 2 MB are allowed"
    endless = httpx.post(f"{server}/complete", content=iter([b"--x"]), headers=FORM)
    assert error(endless, 411) == "the request must say its Content-Length"
    assert error(post(server, method="a" * 5000)).startswith("Part exceeded maximum size")
    many = {f"f{number}": (None, "a") for number in range(50)}
    assert error(httpx.post(f"{server}/complete", files=many)).startswith("Too many fields")


def test_the_answer_holds_what_is_shown(server):
    answer = post(server, photo=encode(IMAGE, "TIFF"), name="cup.tif", preview="1")
    size = int(answer.headers["X-File-Bytes"])
    for part, file_format in ((answer.content[:size], "TIFF"), (answer.content[size:], "PNG")):
        with PIL.Image.open(io.BytesIO(part), formats=[file_format]) as image:
            np.testing.assert_array_equal(image, np.where(HOLE[..., None], 255, IMAGE))
    assert "X-File-Bytes" not in post(server).headers


class Blocker(Whitener):
    """Waits in `fill` until `go` is set or the visitor leaves; counts the calls."""

    def __init__(self):
        self.go, self.calls = threading.Event(), 0

    def with_options(self, *options):
        self._check = options[-1]
        return self

    def fill(self, image, hole):
        self.calls += 1
        while not self.go.wait(0.1):
            self._check()
        return super().fill(image, hole)


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        yield pool


def test_one_completion_at_a_time_and_a_bounded_queue(pool):
    """Each visitor gets their own photograph back."""
    blocker = Blocker()
    photos = [np.roll(IMAGE, offset, 1) for offset in range(6)]
    with serving({"slow": blocker}, LIMITS._replace(queue=3)) as server:
        sent = [pool.submit(post, server, photo=encode(photo)) for photo in photos]
        wait_for(lambda: sum(answer.done() for answer in sent) == 2)
        # Those that do not complete have their own line.
        assert post(server, "preview").status_code == 200
        blocker.go.set()
        answers = [answer.result() for answer in sent]
    refused = [answer for answer in answers if answer.status_code != 200]
    for answer in refused:
        assert error(answer, 503) == "3 requests are waiting already; try again in a minute"
        assert answer.headers["Retry-After"] == "60"
    for photo, answer in zip(photos, answers, strict=True):
        if answer not in refused:
            np.testing.assert_array_equal(pixels(answer), np.where(HOLE[..., None], 255, photo))
    assert (len(refused), blocker.calls) == (2, 4)


def test_whoever_leaves_is_skipped_and_the_queue_says_how_many_come_first(
    pool, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    large = PHOTO + bytes(1_500_000)  # more than is held in memory
    blocker = Blocker()

    def before(job):
        return httpx.get(f"{server}/queue?job={job}").json()["before"]

    with serving({"slow": blocker}, LIMITS._replace(megabytes=2)) as server:
        first = send(server, "complete?job=a", large)
        wait_for(lambda: before("a") == 0)
        second = send(server, "complete?job=b", large)
        wait_for(lambda: before("b") == 1)
        last = pool.submit(post, server, "complete?job=c")
        wait_for(lambda: before("c") == 2)
        # The uploads are in files without a name, which the system removes if we are killed.
        assert list(tmp_path.iterdir()) == []
        second.close()
        wait_for(lambda: before("c") == 1)
        first.close()
        wait_for(lambda: before("c") == 0)
        blocker.go.set()
        assert last.result().status_code == 200 and before("c") is None
    assert blocker.calls == 2  # one left while its hole was filled, one in the queue


def test_unfinished_uploads_keep_nobody_waiting():
    start = (
        b"POST /complete HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with (
        serving({"white": Whitener()}, LIMITS._replace(queue=1)) as server,
        contextlib.ExitStack() as idle,
    ):
        for _ in range(10):
            idle.enter_context(connect(server)).sendall(start)
        for _ in range(5):
            assert post(server).status_code == 200


def test_stopping_answers_those_who_wait(pool, monkeypatch, capfd):
    monkeypatch.setattr("glinpaint_jax.web.app.SHUTDOWN_SECONDS", 1)
    blocker = Blocker()
    with serving({"slow": blocker}, LIMITS._replace(queue=1)) as server:
        waiting = [pool.submit(post, server) for _ in range(3)]
        wait_for(lambda: any(answer.done() for answer in waiting))  # one is refused
    for answer in waiting:
        message = error(answer.result(), 503)
        assert message.startswith(("the server is stopping; try again later", "1 requests"))
    blocker.go.set()
    assert "Traceback" not in capfd.readouterr().err


EVIL = "http://evil.example"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Host": "evil.example"}, "this server is not called 'evil.example'"),
        ({"Host": "evil.example:1", "Origin": f"{EVIL}:1"}, "this server is not called"),
        ({"Host": "1.evil.example"}, "this server is not called"),
        ({"Host": "[::1"}, "this server is not called"),
        ({"Origin": EVIL}, f"requests from '{EVIL}' are not allowed"),
        ({"Origin": "http://127.0.0.1:1"}, "requests from"),
        ({"Origin": "http://proxy.evil.example"}, "requests from"),
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
        for policy in ("default-src 'self'", "frame-ancestors 'none'"):
            assert policy in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_refused_requests_are_logged_in_one_line(capfd):
    paths = ("../../etc/passwd", "..%2f..%2fetc/passwd", "%00", "static/../app.py", "%0aline")
    requests = [(f"GET /{path} HTTP/1.0\r\nHost: localhost", b"404") for path in paths]
    with serving({"white": Whitener()}) as server:
        for request, status in [*requests, ("GARBAGE", b"400")]:
            with connect(server) as client:
                client.sendall(f"{request}\r\n\r\n".encode())
                assert status in client.makefile("rb").readline()
        assert error(httpx.post(f"{server}/complete", content=b"garbage", headers=FORM))
        assert error(httpx.put(f"{server}/complete"), 405)
    lines = capfd.readouterr().err.splitlines()
    lines = [line for line in lines if line != "WARNING:  Invalid HTTP request received."]
    assert len(lines) == 7, lines
    assert lines[0] == "127.0.0.1: GET '/../../etc/passwd': 404"
