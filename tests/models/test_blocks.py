"""Compares layers on blocks of 2x2 pixels with the same layers on pixels, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models import generator
from glinpaint_jax.models.blocks import (
    conv2d_on_blocks,
    conv_transpose_to_blocks,
    to_blocks,
    to_pixels,
)
from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2
from glinpaint_jax.models.generator import DECODER, ENCODER
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.steps import make_batch


def assert_close(actual, expected):
    def check(a, b):
        assert a.dtype == b.dtype == np.float64
        assert abs(a - b).max() <= 1e-12 * abs(b).max()

    jax.tree.map(check, actual, expected)


def test_a_block_holds_its_pixels_row_by_row():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    blocks = to_blocks(jnp.asarray(x))
    assert blocks.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(blocks[1, 1, 2], x[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(to_pixels(blocks), x)


# Kernel, stride and side of the output's blocks: of enc1, dec6, dec7, enc2.
CONVOLUTIONS = [(5, 1, 2), (3, 1, 2), (3, 1, 4), (3, 2, 1)]


@pytest.mark.parametrize(("size", "stride", "side"), CONVOLUTIONS)
def test_convolutions_on_blocks_equal_those_on_pixels(size, stride, side):
    def on_blocks(x, kernel):
        y = conv2d_on_blocks(to_blocks(x), kernel, stride, side)
        return to_pixels(y, side)

    def on_pixels(x, kernel):
        return conv2d(x, kernel, stride=stride, padding=size // 2)

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
        kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 5))
        assert_close(*value_and_gradients(on_blocks, on_pixels, x, kernel))


def test_transposed_convolutions_to_blocks_equal_those_to_pixels():
    def to_blocks_and_back(x, kernel):
        return to_pixels(conv_transpose_to_blocks(x, kernel))

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 3, 4, 3))
        kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))
        assert_close(
            *value_and_gradients(to_blocks_and_back, conv_transpose_4x4_stride2, x, kernel)
        )


def value_and_gradients(f, g, *operands):
    """Of both functions; cotangents vary."""

    @jax.jit
    def run(*operands):
        results = []
        for function in (f, g):
            y, pull_back = jax.vjp(function, *operands)
            results.append((y, pull_back(jnp.cos(jnp.arange(y.size)).reshape(y.shape))))
        return results

    return run(*operands)


def test_the_generator_on_blocks_equals_the_one_on_pixels(monkeypatch):
    """Output, running statistics and all gradients. Without the layers between, to compile less."""
    monkeypatch.setattr(generator, "ENCODER", ENCODER[:2])
    monkeypatch.setattr(generator, "DILATION_NECK", ())
    monkeypatch.setattr(generator, "DECODER", DECODER[4:])

    def run(blocks, variables, *inputs):
        def forward(params, *inputs):
            network = generator.Generator(4, blocks=blocks)
            return network.apply(
                variables | {"params": params}, *inputs, train=True, mutable=["batch_stats"]
            )

        y, pull_back, updated = jax.vjp(forward, variables["params"], *inputs, has_aux=True)
        return y, updated, pull_back(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    with jax.enable_x64(True):
        image = 2 + jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
        inputs = image, jnp.ones((2, 8, 12, 1))
        variables = generator.Generator(4).init(jax.random.key(1), *inputs, train=True)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        both = jax.jit(lambda *arrays: [run(blocks, *arrays) for blocks in (True, False)])
        assert_close(*both(variables, *inputs))


def test_a_step_uses_blocks_if_the_config_says_so(mesh1):
    def last_kernels(pixel_blocks):
        config = make_small_config(pixel_blocks=pixel_blocks)
        step = make_steps(config, mesh1)[Phase.COMPLETION]
        program = step.lower(abstract_state(config, mesh1), make_batch(0, config, mesh1)).as_text()
        return {shape for shape in ("4x4x8x48", "3x3x2x3") if f"tensor<{shape}xf32>" in program}

    assert last_kernels("on") == {"4x4x8x48", "3x3x2x3"}
    assert last_kernels("auto") == {"3x3x2x3"}
