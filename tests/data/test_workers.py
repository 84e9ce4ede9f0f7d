"""Kills real worker processes."""

import collections
import copy
import functools
import itertools
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from glinpaint_jax.config import Config, DataConfig, MaskConfig
from glinpaint_jax.data.folders import FolderSource
from glinpaint_jax.data.pipeline import train_batches
from glinpaint_jax.data.workers import MAX_DEATHS, restart_dead_workers
from glinpaint_jax.errors import UserError
from tests.helpers.configs import make_small_config
from tests.helpers.sources import Numbered, assert_equal, take, write_reds


def workers():
    return [p for p in multiprocessing.active_children() if "grain-process-prefetch" in p.name]


def open_stream(config, source):
    return functools.partial(train_batches, source, config, local_batch_size=4, process=0, count=1)


def test_workers_make_the_same_examples_as_threads_even_if_killed(tmp_path):
    write_reds(tmp_path, 9)
    Image.fromarray(255 * np.eye(40, dtype=np.uint8)).save(tmp_path / "masks.png")
    (tmp_path / "list.txt").write_text("masks.png")
    files = {"folder": str(tmp_path), "list": "list.txt"}
    mask = MaskConfig("mixed", 16, 4, 2, mixed="square,free_form,files", **files)
    config = make_small_config(mask=mask)
    threads = copy.deepcopy(config)
    config.data.num_workers = 2
    source, said = FolderSource(tmp_path), []
    stream = restart_dead_workers(open_stream(config, source), 8, 4, said.append)
    found = list(itertools.islice(stream, 3))
    workers()[0].kill()
    found += itertools.islice(stream, 25)  # more than was read ahead
    stream.close()
    assert workers() == []
    assert_equal(found, take(source, threads, 28, start=8))
    assert said and all("a data worker died with exit code -9" in line for line in said)


class Deadly(Numbered):
    """Kills the process that reads it."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_keep_dying_end_the_run():
    config = make_small_config(data=DataConfig(num_workers=1, crop_size=32))
    said = []
    with pytest.raises(UserError, match=f"exit code -9 .*, {MAX_DEATHS} times in a row"):
        next(restart_dead_workers(open_stream(config, Deadly(10)), 0, 4, said.append))
    assert len(said) == MAX_DEATHS - 1


def test_little_shared_memory_is_rejected_with_two_remedies(monkeypatch):
    """Docker gives containers 64 MB; the defaults of the config need 455."""
    usage = collections.namedtuple("usage", "total")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(64 * 2**20))
    config = Config()
    expected = (
        r"^4 data workers need 455 MB of shared memory, /dev/shm has 67 MB; start the "
        r"container with --shm-size=1g, or pass --config.data.num_workers=0"
    )
    with pytest.raises(UserError, match=expected) as error:
        batch = config.global_batch_size
        share = functools.partial(
            train_batches, Numbered(40), config, local_batch_size=batch, process=0, count=1
        )
        restart_dead_workers(share, 0, batch, print)  # not only when the first batch is read
    assert "\n" not in str(error.value)
    threads = make_small_config(data=DataConfig(num_workers=0, crop_size=32))
    assert len(take(Numbered(40), threads, 1)) == 1
