"""The two networks; tests/interop compares them with MMagic's names and PyTorch's results."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models import generator
from glinpaint_jax.models.discriminator import Discriminator
from glinpaint_jax.models.generator import DECODER, ENCODER, RECEPTIVE_RADIUS, Generator
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.steps import make_batch


def to_float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


@pytest.fixture(scope="module")
def variables():
    image, mask = jnp.zeros((1, 128, 128, 3)), jnp.zeros((1, 128, 128, 1))
    return jax.jit(lambda: Generator(width=4).init(jax.random.key(0), image, mask, train=True))()


@pytest.mark.parametrize("output", ["clip", "sigmoid"])
def test_prediction_stays_in_range(variables, output):
    image = 1e4 * jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    mask = jnp.zeros((1, 16, 16, 1))
    prediction = Generator(width=4, output=output).apply(variables, image, mask, train=False)
    assert 0.5 < np.abs(prediction).max() <= 1  # the limit applies


def test_bfloat16_keeps_parameters_and_outputs_in_float32():
    image, mask = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 1))
    network = Generator(width=4, dtype=jnp.bfloat16)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image, mask, train=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    traced = jax.jit(lambda v: network.apply(v, image, mask, train=False)).trace(variables)
    program = traced.lower(lowering_platforms=("tpu",)).as_text()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    # 16 layers in bfloat16, the last one in float32.
    results = [line.rsplit("x", 1)[1] for line in convolutions]
    assert results == ["bf16>"] * 16 + ["f32>"]

    image, window = jnp.zeros((3, 32, 32, 3)), jnp.zeros((3, 16, 16, 3))
    init = partial(Discriminator(width=4, dtype=jnp.bfloat16).init_with_output, train=True)
    logits, _ = jax.eval_shape(init, jax.random.key(0), image, window)
    assert (logits.shape, logits.dtype) == ((3, 1), jnp.float32)


def test_receptive_radius(variables):
    """Pixels beyond the radius have no influence; some pixels within it do."""
    side = 2 * RECEPTIVE_RADIUS + 10
    side += -side % 4
    # With positive weights that sum to 1, nothing cancels, saturates or is zeroed by a ReLU.
    positive = jax.tree.map(
        lambda w: abs(w) / abs(w).sum((0, 1, 2), keepdims=True) if w.ndim == 4 else w,
        variables["params"],
    )
    positive = {"params": positive, "batch_stats": variables["batch_stats"]}
    center = side // 2

    def pixel(image):
        mask = jnp.zeros((1, side, side, 1))
        return Generator(width=4).apply(positive, image, mask, train=False)[0, center, center, 0]

    gradient = np.asarray(jax.jit(jax.grad(pixel))(jnp.full((1, side, side, 3), 0.1)))[0].sum(-1)
    rows = np.flatnonzero(gradient.sum(1))
    reach = max(center - rows[0], rows[-1] - center)
    # Up to 3 pixels less, depending on the position within the stride.
    assert RECEPTIVE_RADIUS - 3 <= reach <= RECEPTIVE_RADIUS


def differentiate(function, *inputs):
    """The output, running statistics and all gradients of a network."""
    y, pull_back, updated = jax.vjp(function, *inputs, has_aux=True)
    return y, updated, pull_back(jnp.cos(jnp.arange(y.size)).reshape(y.shape))


def train(network, variables, params, *inputs, **options):
    return network.apply(
        variables | {"params": params}, *inputs, train=True, mutable=["batch_stats"], **options
    )


def test_the_generator_on_blocks_equals_the_one_on_pixels(monkeypatch):
    """In float64. Without the layers between, to compile less."""
    monkeypatch.setattr(generator, "ENCODER", ENCODER[:2])
    monkeypatch.setattr(generator, "DILATION_NECK", ())
    monkeypatch.setattr(generator, "DECODER", DECODER[4:])
    with jax.enable_x64(True):
        image = 2 + jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
        inputs = image, jnp.ones((2, 8, 12, 1))
        variables = to_float64(Generator(4).init(jax.random.key(1), *inputs, train=True))
        on_blocks, on_pixels = (
            jax.jit(partial(differentiate, partial(train, Generator(4, blocks=blocks), variables)))(
                variables["params"], *inputs
            )
            for blocks in (True, False)
        )

    def check(a, b):
        assert a.dtype == b.dtype == np.float64
        assert abs(a - b).max() <= 1e-12 * abs(b).max()

    jax.tree.map(check, *jax.device_get((on_blocks, on_pixels)))


def test_a_step_uses_blocks_if_the_config_says_so(mesh1):
    def last_kernels(pixel_blocks):
        config = make_small_config(pixel_blocks=pixel_blocks)
        step = make_steps(config, mesh1)[Phase.COMPLETION]
        program = step.lower(abstract_state(config, mesh1), make_batch(0, config, mesh1)).as_text()
        return {shape for shape in ("4x4x8x48", "3x3x2x3") if f"tensor<{shape}xf32>" in program}

    assert last_kernels("on") == {"4x4x8x48", "3x3x2x3"}
    assert last_kernels("auto") == {"3x3x2x3"}
