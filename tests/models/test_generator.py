import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, Generator


def abstract_variables(**fields):
    image, mask = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 1))
    return jax.eval_shape(
        lambda: Generator(**fields).init(jax.random.key(0), image, mask, train=True)
    )


@pytest.fixture(scope="module")
def variables():
    image, mask = jnp.zeros((1, 128, 128, 3)), jnp.zeros((1, 128, 128, 1))
    return jax.jit(lambda: Generator(width=4).init(jax.random.key(0), image, mask, train=True))()


def test_parameter_count_and_names_match_mmagic():
    params = abstract_variables()["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 6_069_155
    assert list(params["encoder"]) == [f"enc{i}" for i in range(1, 7)]
    assert list(params["dilation_neck"]) == [f"dilation_convs_{i}" for i in range(4)]
    assert list(params["decoder"]) == [f"dec{i}" for i in range(1, 8)]
    assert params["encoder"]["enc1"]["conv"]["kernel"].shape == (5, 5, 4, 64)
    assert params["decoder"]["dec3"]["conv"]["kernel"].shape == (4, 4, 256, 128)
    assert params["decoder"]["dec7"]["bias"].shape == (3,)


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("train", [True, False])
def test_output_has_the_input_size_for_multiples_of_the_stride(size, train):
    variables = abstract_variables(width=4)
    prediction = jax.eval_shape(
        lambda v, x, m: Generator(width=4).apply(v, x, m, train=train, mutable=["batch_stats"])[0],
        variables,
        jnp.zeros((2, *size, 3)),
        jnp.zeros((2, *size, 1)),
    )
    assert prediction.shape == (2, *size, 3)


@pytest.mark.parametrize(("output", "limit"), [("clip", 1.0), ("sigmoid", 1.0)])
def test_prediction_stays_in_range(variables, output, limit):
    generator = Generator(width=4, output=output)
    image = 1e4 * jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    prediction = generator.apply(variables, image, jnp.zeros((1, 16, 16, 1)), train=False)
    assert np.abs(prediction).max() <= limit
    assert np.abs(prediction).max() > 0.5  # the limit applies


def test_bfloat16_keeps_parameters_and_output_in_float32():
    variables = abstract_variables(width=4, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    image, mask = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 1))
    traced = jax.jit(
        lambda v: Generator(width=4, dtype=jnp.bfloat16).apply(v, image, mask, train=False)
    ).trace(variables)
    program = traced.lower(lowering_platforms=("tpu",)).as_text()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    # 16 layers in bfloat16, the last one in float32.
    results = [line.rsplit("x", 1)[1] for line in convolutions]
    assert results == ["bf16>"] * 16 + ["f32>"]


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
    centre = side // 2

    def pixel(image):
        mask = jnp.zeros((1, side, side, 1))
        return Generator(width=4).apply(positive, image, mask, train=False)[0, centre, centre, 0]

    gradient = np.asarray(jax.jit(jax.grad(pixel))(jnp.full((1, side, side, 3), 0.1)))[0].sum(-1)
    rows = np.flatnonzero(gradient.sum(1))
    reach = max(centre - rows[0], rows[-1] - centre)
    assert reach <= RECEPTIVE_RADIUS
    # Up to 3 pixels less, depending on the position within the stride.
    assert reach >= RECEPTIVE_RADIUS - 3
