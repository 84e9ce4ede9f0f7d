import jax
import numpy as np
import pytest

from glinpaint_jax import distributed
from glinpaint_jax.errors import UserError


def test_a_batch_that_devices_cannot_share_is_refused_with_one_that_they_can(mesh8):
    assert distributed.local_batch_size(16, mesh8) == 16
    for size, remedy in ((20, 16), (3, 8)):
        with pytest.raises(UserError) as error:
            distributed.local_batch_size(size, mesh8)
        message = str(error.value)
        assert f"global_batch_size is {size}" in message and "8 devices" in message
        assert f"--config.global_batch_size={remedy}" in message


def test_batches_are_split_over_the_devices(mesh8):
    batch = distributed.to_global({"image": np.arange(16).reshape(16, 1)}, mesh8)
    shards = batch["image"].addressable_shards
    assert [shard.data.ravel().tolist() for shard in shards] == [
        [2 * i, 2 * i + 1] for i in range(8)
    ]
    assert {shard.device for shard in shards} == set(jax.devices())
