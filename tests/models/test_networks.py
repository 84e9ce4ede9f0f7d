"""The networks and their layers; tests/interop compares them with MMagic's and PyTorch's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models import generator
from glinpaint_jax.models.discriminator import Discriminator
from glinpaint_jax.models.generator import DECODER, ENCODER, RECEPTIVE_RADIUS, Generator
from glinpaint_jax.models.layers import Conv, ConvNormRelu, Layer
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import abstract_state
from glinpaint_jax.training.step import make_steps
from tests.helpers.configs import make_small_config
from tests.helpers.steps import make_batch


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


def test_the_generator_on_blocks_equals_the_one_on_pixels(monkeypatch):
    """In float64. Without the layers between, to compile less."""
    monkeypatch.setattr(generator, "ENCODER", ENCODER[:2])
    monkeypatch.setattr(generator, "DILATION_NECK", ())
    monkeypatch.setattr(generator, "DECODER", DECODER[4:])

    @partial(jax.jit, static_argnums=0)
    def differentiate(blocks, *inputs):
        """The output, running statistics and all gradients."""
        train = partial(Generator(4, blocks=blocks).apply, train=True, mutable=["batch_stats"])
        y, pull_back, updated = jax.vjp(train, *inputs, has_aux=True)
        return y, updated, pull_back(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    def check(a, b):
        assert a.dtype == b.dtype == np.float64
        assert abs(a - b).max() <= 1e-12 * abs(b).max()

    with jax.enable_x64(True):
        image = 2 + jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
        inputs = image, jnp.ones((2, 8, 12, 1))
        variables = Generator(4).init(jax.random.key(1), *inputs, train=True)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        results = [differentiate(blocks, variables, *inputs) for blocks in (True, False)]
    jax.tree.map(check, *jax.device_get(results))


def test_a_step_uses_blocks_if_the_config_says_so(mesh1):
    def last_kernels(pixel_blocks):
        config = make_small_config(pixel_blocks=pixel_blocks)
        step = make_steps(config, mesh1)[Phase.COMPLETION]
        program = step.lower(abstract_state(config, mesh1), make_batch(0, config, mesh1)).as_text()
        return {shape for shape in ("4x4x8x48", "3x3x2x3") if f"tensor<{shape}xf32>" in program}

    assert last_kernels("on") == {"4x4x8x48", "3x3x2x3"}
    assert last_kernels("auto") == {"3x3x2x3"}


def test_residuals_stay_in_bfloat16_and_statistics_in_float32():
    """A layer keeps its input and its convolution's output, neither in float32."""

    def forward(x, variables):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    layer = ConvNormRelu(Layer("", 1, kernel=3), width=8, dtype=jnp.bfloat16)
    x = jnp.ones((2, 16, 16, 4), jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x, train=True)
    y, pull_back, updated = jax.eval_shape(lambda: jax.vjp(forward, x, variables, has_aux=True))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    kept = [leaf for leaf in jax.tree.leaves(pull_back) if leaf.size >= x.size]
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("bfloat16")}
    assert len(kept) == 2


@pytest.mark.parametrize(("transposed", "kernel", "stride"), [(False, 5, 1), (True, 4, 2)])
def test_kernels_are_kaiming_normal_with_pytorchs_fan_out(transposed, kernel, stride):
    layer = Conv(Layer("", 1, kernel, stride, transposed=transposed), 64)
    weights = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 128)))["params"]["kernel"]
    # torch.nn.init.kaiming_normal_(mode="fan_out") on (out, in, k, k) and on (in, out, k, k)
    fan_out = (128 if transposed else 64) * kernel**2
    assert np.std(weights) == pytest.approx(np.sqrt(2 / fan_out), rel=0.01)
    assert abs(np.mean(weights)) < 1e-3


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (30, 4), (1, 1)])
def test_dilated_weights_that_see_only_padding_start_at_zero(height, width):
    layer, image = Conv(Layer("", 1, kernel=3, dilation=8), 5), jnp.zeros((1, height, width, 2))
    kernel = layer.init(jax.random.key(0), image)["params"]["kernel"]
    large = layer.init(jax.random.key(0), jnp.zeros((1, 40, 40, 2)))["params"]["kernel"]
    kernel_gradient = jax.jacrev(lambda k: layer.apply({"params": {"kernel": k}}, image + 1))(large)
    used = (kernel_gradient != 0).any(axis=(0, 1, 2, 3))
    assert large.all()
    np.testing.assert_array_equal(kernel, large * used)
