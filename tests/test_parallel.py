import jax
import numpy as np
import pytest

from glinpaint_jax import parallel
from glinpaint_jax.errors import UserError


def test_indivisible_batch_is_rejected_with_a_size_that_fits(mesh8):
    assert parallel.local_batch_size(16, mesh8) == 16
    for size, remedy in ((20, 16), (3, 8)):
        with pytest.raises(UserError) as error:
            parallel.local_batch_size(size, mesh8)
        message = str(error.value)
        assert f"global_batch_size is {size}" in message and "8 devices" in message
        assert f"--config.global_batch_size={remedy}" in message


def test_microbatches_must_divide_each_devices_images(mesh8):
    assert parallel.local_batch_size(32, mesh8, microbatches=2) == 32
    with pytest.raises(UserError, match=r"is 24, .* 8 devices x 2 microbatches; .*batch_size=16$"):
        parallel.local_batch_size(24, mesh8, microbatches=2)


def test_batches_are_split_over_the_devices(mesh8):
    batch = parallel.to_global({"image": np.arange(16).reshape(16, 1)}, mesh8)
    shards = batch["image"].addressable_shards
    assert [shard.data.ravel().tolist() for shard in shards] == [
        [2 * i, 2 * i + 1] for i in range(8)
    ]
    assert {shard.device for shard in shards} == set(jax.devices())
