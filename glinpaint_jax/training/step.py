"""The training step of each phase: the paper's algorithm 1, in MMagic's order. Pure functions.

They are written for the global batch; jit splits it over the devices of the mesh.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh

from glinpaint_jax.config import Config
from glinpaint_jax.models.inputs import Inputs, composite, cut_windows, fill_hole, make_inputs
from glinpaint_jax.models.networks import make_networks
from glinpaint_jax.models.platforms import row_major, separate
from glinpaint_jax.parallel import batch_sharding, replicated
from glinpaint_jax.training import losses
from glinpaint_jax.training.phases import Phase
from glinpaint_jax.training.state import NetworkState, TrainState, learning_rate_at, make_optimizer

Batch = dict[str, Array]
Metrics = dict[str, Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_steps(config: Config, mesh: Mesh) -> dict[Phase, Step]:
    """One jitted step per phase: (state, batch) -> (state, losses). The old state is donated.

    The batch is split over the mesh and everything else is replicated. Losses, gradients and batch
    statistics are those of the global batch. A network is left unchanged if its losses, gradient or
    statistics are not finite; the metric `skipped` is then 1.
    """
    if config.pixel_blocks == "auto":
        on_tpu = mesh.devices.flat[0].platform == "tpu"
        config = dataclasses.replace(config, pixel_blocks="on" if on_tpu else "off")

    def compile(step: Callable[..., tuple[TrainState, Metrics]]) -> Step:
        @jax.default_matmul_precision(config.matmul_precision)
        def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            state, metrics = step(config, state, make_inputs(batch))
            return next_state(config, state), metrics

        run.__name__ = step.__name__  # in profiles
        return jax.jit(
            run,
            in_shardings=(replicated(mesh), batch_sharding(mesh)),
            out_shardings=replicated(mesh),
            donate_argnums=0,
        )

    return {
        Phase.COMPLETION: compile(completion_step),
        Phase.DISCRIMINATOR: compile(discriminator_step),
        Phase.JOINT: compile(joint_step),
    }


def completion_step(
    config: Config, state: TrainState, inputs: Inputs
) -> tuple[TrainState, Metrics]:
    """Updates the generator with the reconstruction loss."""

    def objective(params: Any) -> tuple[Array, tuple[Metrics, Any]]:
        network = state.generator.replace(params=params)
        prediction, batch_stats = generator_forward(config, network, inputs)
        total, terms = reconstruction_loss(config, prediction, inputs)
        return total, (terms, batch_stats)

    gradients, (terms, batch_stats) = jax.grad(objective, has_aux=True)(state.generator.params)
    generator, terms = apply_gradients(config, state, "generator", gradients, batch_stats, terms)
    return state.replace(generator=generator), terms


def discriminator_step(
    config: Config, state: TrainState, inputs: Inputs
) -> tuple[TrainState, Metrics]:
    """Updates the discriminator, and the generator's running statistics as MMagic does."""
    prediction, batch_stats = generator_forward(config, state.generator, inputs)
    discriminator, terms = update_discriminator(config, state, inputs, prediction)
    batch_stats, _ = select_finite(batch_stats, state.generator.batch_stats, batch_stats)
    generator = state.generator.replace(batch_stats=batch_stats)
    return state.replace(generator=generator, discriminator=discriminator), terms


def joint_step(config: Config, state: TrainState, inputs: Inputs) -> tuple[TrainState, Metrics]:
    """Updates the discriminator, then the generator against the updated discriminator.

    Both updates share one forward pass of the generator.
    """

    def forward(params: Any) -> tuple[Array, Any]:
        return generator_forward(config, state.generator.replace(params=params), inputs)

    prediction, pull_back, batch_stats = jax.vjp(forward, state.generator.params, has_aux=True)
    discriminator, discriminator_terms = update_discriminator(config, state, inputs, prediction)

    def objective(prediction: Array) -> tuple[Array, tuple[Metrics, Any]]:
        total, terms = reconstruction_loss(config, prediction, inputs)
        completed = composite(prediction, inputs.image, inputs.mask)
        origins = inputs.window_origins(config.local_size)
        windows = cut_windows(completed, origins, config.local_size)
        logits, discriminator_stats = discriminator_forward(
            config, discriminator, completed, windows
        )
        terms["adversarial"] = losses.adversarial(
            logits, config.losses.adversarial_kind, real=True, discriminator=False
        )
        total += config.losses.adversarial * terms["adversarial"]
        return total, (terms, discriminator_stats)

    gradient, (terms, discriminator_stats) = jax.grad(objective, has_aux=True)(prediction)
    discriminator_stats, _ = select_finite(
        discriminator_stats, discriminator.batch_stats, (discriminator_stats, terms)
    )
    discriminator = discriminator.replace(batch_stats=discriminator_stats)
    (gradients,) = pull_back(gradient)
    generator, terms = apply_gradients(config, state, "generator", gradients, batch_stats, terms)
    terms["skipped"] = jnp.maximum(terms["skipped"], discriminator_terms["skipped"])
    state = state.replace(generator=generator, discriminator=discriminator)
    return state, discriminator_terms | terms


def generator_forward(config: Config, network: NetworkState, inputs: Inputs) -> tuple[Array, Any]:
    """The generator in training mode -> (prediction, new running statistics)."""
    generator, _ = make_networks(config, blocks=config.pixel_blocks == "on")
    masked_image = fill_hole(inputs.image, inputs.mask, config.mask.fill, config.model.base)
    return apply_in_microbatches(config, generator, network, masked_image, inputs.mask)


def discriminator_forward(
    config: Config, network: NetworkState, images: Array, windows: Array, parts: int = 1
) -> tuple[Array, Any]:
    """The discriminator in training mode -> (logits, new running statistics)."""
    _, discriminator = make_networks(config)
    return apply_in_microbatches(config, discriminator, network, images, windows, parts=parts)


def apply_in_microbatches(
    config: Config, module: nn.Module, network: NetworkState, *arrays: Array, parts: int = 1
) -> tuple[Array, Any]:
    """Applies `module` to config.microbatches parts of the batch, one after another.

    Image i belongs to microbatch i % microbatches, so all images of a device stay there; `parts`
    images of BatchNormRelu go together. Returns the outputs and the mean of the running statistics.
    Of each microbatch, only the output is kept; the backward pass computes the rest again. Memory
    is that of one.
    """
    count, options = config.microbatches, {"parts": parts} if parts > 1 else {}
    forward = partial(module.apply, network.variables, mutable=["batch_stats"], **options)
    if count == 1:
        outputs, variables = forward(*arrays, train=True)
        return outputs, variables["batch_stats"]

    def split(x: Array) -> Array:
        groups = x.reshape(-1, count, parts, *x.shape[1:]).swapaxes(0, 1)
        return groups.reshape(count, -1, *x.shape[1:])

    # A loop has no CSE.
    run = jax.checkpoint(lambda part: forward(*part, train=True), prevent_cse=False)
    outputs, variables = lax.map(run, jax.tree.map(split, arrays))
    batch_stats = jax.tree.map(lambda leaf: leaf.mean(axis=0), variables["batch_stats"])
    groups = outputs.reshape(count, -1, parts, *outputs.shape[2:]).swapaxes(0, 1)
    return groups.reshape(-1, *outputs.shape[2:]), batch_stats


def reconstruction_loss(config: Config, prediction: Array, inputs: Inputs) -> tuple[Array, Metrics]:
    """Returns the weighted sum of the reconstruction losses in use, and each one unweighted.

    The paper's equation 2 is `mse_hole`; MMagic uses `l1_hole`.
    """
    image, mask = inputs.image, inputs.mask
    functions = {
        "l1_hole": lambda: losses.l1(prediction, image, mask),
        "mse_hole": lambda: losses.mse(prediction, image, mask),
        "l1_valid": lambda: losses.l1(prediction, image, 1 - mask),
        "tv": lambda: losses.total_variation(composite(prediction, image, mask), mask),
    }
    weights = {name: getattr(config.losses, name) for name in functions}
    terms = {name: loss() for name, loss in functions.items() if weights[name]}
    return sum((weights[name] * terms[name] for name in terms), jnp.zeros(())), terms


def update_discriminator(
    config: Config, state: TrainState, inputs: Inputs, prediction: Array
) -> tuple[NetworkState, Metrics]:
    """One optimizer step of the discriminator (the maximization of the paper's equation 3).

    Fake and real images are normalized by their own statistics. The running statistics see the fake
    batch first, as in MMagic.
    """
    network, kind = state.discriminator, config.losses.adversarial_kind
    fake = composite(lax.stop_gradient(prediction), inputs.image, inputs.mask)
    fake_origins = real_origins = inputs.window_origins(config.local_size)
    if config.losses.random_real_window:
        key = jax.random.fold_in(state.rng, state.step)
        end = config.image_size - config.local_size + 1
        real_origins = jax.random.randint(key, (len(fake), 2), 0, end)
    # Fake and real images alternate, as BatchNormRelu wants its parts.
    images = jnp.stack([fake, inputs.image], axis=1).reshape(-1, *fake.shape[1:])
    origins = jnp.stack([fake_origins, real_origins], axis=1).reshape(-1, 2)
    windows = cut_windows(images, origins, config.local_size)

    def objective(params: Any) -> tuple[Array, tuple[Metrics, Any]]:
        trained = network.replace(params=params)
        logits, stats = discriminator_forward(config, trained, images, windows, parts=2)
        fake_logits, real_logits = logits[::2], logits[1::2]
        fake_loss = losses.adversarial(fake_logits, kind, real=False, discriminator=True)
        real_loss = losses.adversarial(real_logits, kind, real=True, discriminator=True)
        terms = {"discriminator_fake": fake_loss, "discriminator_real": real_loss}
        total = fake_loss + real_loss
        if config.losses.disc_shift:
            terms["disc_shift"] = losses.discriminator_shift(fake_loss, real_loss)
            total += config.losses.disc_shift * terms["disc_shift"]
        return total, (terms, stats)

    gradients, (terms, batch_stats) = jax.grad(objective, has_aux=True)(network.params)
    return apply_gradients(config, state, "discriminator", gradients, batch_stats, terms)


@jax.named_scope("optimizer")
def apply_gradients(
    config: Config, state: TrainState, name: str, gradients: Any, batch_stats: Any, terms: Metrics
) -> tuple[NetworkState, Metrics]:
    """Returns the network `name` after one optimizer step, and `terms` with `skipped`: 0.

    If anything is not finite, the network is unchanged and `skipped` is 1.

    `row_major`, `separate`: the optimizer reads and writes its arrays once, in place.
    """
    network: NetworkState = getattr(state, name)
    gradients = jax.tree.map(row_major, gradients)
    optimizer = make_optimizer(config.optimizer)
    directions, opt_state = optimizer.update(gradients, network.opt_state, network.params)
    rate = learning_rate_at(
        state.step, config.optimizer, config.num_steps, discriminator=name == "discriminator"
    )
    updates = jax.tree.map(lambda direction: -rate * direction, directions)
    new = NetworkState(optax.apply_updates(network.params, updates), batch_stats, opt_state)
    checked = terms, batch_stats, optax.tree.norm(gradients)
    network, skipped = separate(select_finite(new, network, checked))
    return network, terms | {"skipped": skipped}


def select_finite(new: Any, old: Any, checked: Any) -> tuple[Any, Array]:
    """Returns (new, 0), or (old, 1) if anything in `checked` is not finite."""
    flags = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(checked)])
    # Not flags.all(), which XLA copies into every fusion below: three times the program to compile.
    finite = jnp.sort(flags)[0]
    return jax.tree.map(partial(jnp.where, finite), new, old), 1 - finite.astype(jnp.float32)


def next_state(config: Config, state: TrainState) -> TrainState:
    """Counts the step. The EMA follows the generator, faster in early steps."""
    ema = state.ema
    if ema is not None:
        decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(
            lambda old, new: old + (1 - decay) * (new - old), ema, state.generator.variables
        )
    return state.replace(step=state.step + 1, ema=ema)
