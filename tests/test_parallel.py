import pytest

from glinpaint_jax import parallel
from glinpaint_jax.errors import UserError


def test_indivisible_batch_is_rejected_with_a_size_that_fits(mesh8):
    assert parallel.local_batch_size(16, 1, mesh8) == 16
    assert parallel.local_batch_size(32, 2, mesh8) == 32
    for size, parts, wanted, remedy in (
        (20, 1, "8 devices", 16),
        (24, 2, "8 devices x 2 microbatches", 16),
    ):
        with pytest.raises(UserError) as error:
            parallel.local_batch_size(size, parts, mesh8)
        assert str(error.value) == (
            f"config.global_batch_size is {size}, must be a multiple of the {wanted}; pass "
            f"--config.global_batch_size={remedy}"
        )
