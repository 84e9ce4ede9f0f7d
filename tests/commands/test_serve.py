"""`serve` as a program, and its arguments."""

import io
import signal

import httpx
import numpy as np
import PIL.Image
import pytest
import skimage.data

from glinpaint_jax import Completer
from glinpaint_jax.commands import cli, serve
from glinpaint_jax.errors import UserError
from tests.helpers.completers import draw_hole
from tests.helpers.programs import Started, free_address, wait_for
from tests.helpers.sources import encode


def parse(*arguments):
    parser = cli.ArgumentParser("serve", serve.__doc__)
    serve.add_arguments(parser)
    return parser.parse_args(list(arguments))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--port=70000", "--port: '70000' is not a whole number in 1..65535"),
        ("--max-megapixels=1001", "--max-megapixels: '1001' is not a whole number in 1..1000"),
        ("--host=::1", "--host=::1 must be a host name or an IPv4 address"),
        ("--host=192.0.2.1", "cannot listen on 192.0.2.1:7860; try another --port"),
    ],
)
def test_invalid_arguments_are_rejected(argument, expected):
    with pytest.raises(UserError, match=expected):
        serve.main(parse("--checkpoint=nowhere", argument))


def test_checkpoints_may_be_repeated(finished_run, capsys):
    run, step = str(finished_run[0]), str(finished_run[0] / "checkpoints" / "10")
    loaded = serve.load_completers(parse(f"--checkpoint={run}", f"--checkpoint={step}"))
    assert list(loaded) == ["finished", "finished 10"]
    with pytest.raises(UserError, match="two checkpoints are called 'finished'"):
        serve.load_completers(parse(f"--checkpoint={run}", f"--checkpoint={run}/"))
    assert list(serve.load_completers(parse("--method=telea"))) == ["telea"]
    assert list(serve.load_completers(parse())) == ["auto"]
    assert "--method auto" in capsys.readouterr().err


def test_a_network_completes_and_a_signal_stops(finished_run):
    image = np.ascontiguousarray(skimage.data.coffee()[:120, :160])
    hole = draw_hole(120, 160, (30, 20, 70, 60))
    address = free_address()
    port = f"--port={address.rpartition(':')[2]}"
    started = Started("glinpaint_jax", "serve", f"--checkpoint={finished_run[0]}", port)

    def post(timeout=60):
        files = {"photo": ("photo.png", encode(image)), "mask": ("mask.png", encode(hole))}
        return httpx.post(f"http://{address}/complete", files=files, timeout=timeout)

    wait_for(lambda: httpx.get(f"http://{address}").is_success, 120, [httpx.TransportError])
    with pytest.raises(httpx.ConnectError):  # it listens on this machine only
        httpx.get(f"http://127.0.0.2:{port.rpartition('=')[2]}")
    answer = post()
    with PIL.Image.open(io.BytesIO(answer.content)) as filled:
        got = np.array(filled).astype(int)
    # The server's process has fewer devices, which changes the order of sums.
    expected = Completer.load(finished_run[0])(image, hole).astype(int)
    np.testing.assert_allclose(got, expected, atol=1)
    assert (got != expected).mean() < 1e-3
    with pytest.raises(httpx.ReadTimeout):
        post(timeout=httpx.Timeout(60, read=1e-4))
    started.process.send_signal(signal.SIGTERM)
    result = started.result(60)
    assert result.returncode == 0 and result.stderr == "stopped\n"
