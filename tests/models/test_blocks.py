"""Compares layers on blocks of 2x2 pixels with the same layers on pixels, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models.blocks import (
    conv2d_on_blocks,
    conv_transpose_to_blocks,
    to_blocks,
    to_pixels,
)
from glinpaint_jax.models.conv import conv2d, conv_transpose_4x4_stride2
from glinpaint_jax.models.generator import DECODER, ENCODER, RGB_SIDE, Generator, Stack
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
        y = conv2d_on_blocks(to_blocks(x), kernel, stride=stride, side=side)
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


NETWORKS = {
    "encoder": (lambda blocks: Stack(ENCODER[:2], 4, blocks=blocks), 8, 4),
    "decoder": (lambda blocks: Stack(DECODER[4:], 4, to_rgb=True, blocks=blocks), 4, 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_on_blocks_equal_those_on_pixels(name):
    """Outputs, running statistics and the gradients of all parameters and of the input."""
    make, side, channels = NETWORKS[name]

    def run(blocks, variables, x):
        def forward(params, x):
            if blocks and name == "encoder":
                x = to_blocks(x)
            y, updated = make(blocks).apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )
            return to_pixels(y, RGB_SIDE) if blocks and name == "decoder" else y, updated

        y, pull_back, updated = jax.vjp(forward, variables["params"], x, has_aux=True)
        return y, updated, pull_back(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    with jax.enable_x64(True):
        x = 2 + jax.random.normal(jax.random.key(0), (2, side, side, channels))
        variables = make(False).init(jax.random.key(1), x, train=True)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        both = jax.jit(lambda *arrays: [run(blocks, *arrays) for blocks in (True, False)])
        assert_close(*both(variables, x))


def test_the_generator_has_the_same_parameters_and_output_on_blocks():
    networks = [Generator(4, blocks=blocks) for blocks in (True, False)]
    arrays = random_array((1, 16, 24, 3)), np.ones((1, 16, 24, 1))

    def init(network, *arrays):
        return network.init(jax.random.key(0), *arrays, train=True)

    with jax.enable_x64(True):
        shapes = [jax.eval_shape(partial(init, network), *arrays) for network in networks]
        assert shapes[0] == shapes[1]
        params = jax.tree.map(lambda leaf: random_array(leaf.shape), shapes[0]["params"])
        stats = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes[0]["batch_stats"])
        variables = {"params": params, "batch_stats": stats}

        @jax.jit
        def run(variables, *arrays):
            return [network.apply(variables, *arrays, train=False) for network in networks]

        outputs = run(variables, *arrays)
        assert np.mean(abs(outputs[0]) < 1) > 0.5  # few are clipped
        assert_close(*outputs)


def random_array(shape):
    """A kernel keeps its input's variance."""
    inputs = np.prod(shape[:-1]) if len(shape) == 4 else 1
    return np.random.default_rng(0).normal(size=shape) / np.sqrt(inputs)


def test_a_step_uses_blocks_if_the_config_says_so(mesh1):
    def last_kernels(pixel_blocks):
        config = make_small_config(pixel_blocks=pixel_blocks)
        step = make_steps(config, mesh1)[Phase.COMPLETION]
        program = step.lower(abstract_state(config, mesh1), make_batch(0, config, mesh1)).as_text()
        return {shape for shape in ("4x4x8x48", "3x3x2x3") if f"tensor<{shape}xf32>" in program}

    assert last_kernels("on") == {"4x4x8x48", "3x3x2x3"}
    assert last_kernels("auto") == {"3x3x2x3"}
