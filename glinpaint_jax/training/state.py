"""Everything a training step reads and writes, as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from glinpaint_jax.config import Config, OptimizerConfig
from glinpaint_jax.models.networks import Variables, init_variables


@struct.dataclass
class NetworkState:
    """One network and its optimizer."""

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class TrainState:
    """`step` counts the finished steps; `ema` holds averaged generator variables, or None.

    Leaves are arrays, or their shapes where a state is only described.
    """

    step: Any
    generator: NetworkState
    discriminator: NetworkState
    ema: Any
    rng: Any

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The generator's variables that evaluation and export use."""
        return self.generator.variables if self.ema is None else self.ema


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradient -> update direction; the step multiplies it by -`learning_rate_at`.

    Constants are PyTorch's defaults, which MMagic and the paper's followers use.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.name == "adam":
        return optax.chain(clip, optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8))
    return optax.chain(clip, optax.scale_by_adadelta(rho=0.9, eps=1e-6))


def learning_rate_at(step: jax.Array, config: OptimizerConfig, num_steps: int) -> jax.Array:
    """The learning rate of both networks, a function of the global step."""
    rate = jnp.asarray(config.learning_rate, jnp.float32)
    if config.warmup_steps:
        rate *= jnp.minimum((step + 1) / config.warmup_steps, 1)
    if config.schedule == "cosine":
        rate *= 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / num_steps, 1)))
    return rate


def create_state(
    config: Config,
    generator_variables: Variables | None = None,
    discriminator_variables: Variables | None = None,
) -> TrainState:
    """A fresh state for `config`. Networks that are not given are random, from its seed alone.

    Jit it: eager initialisation is slow.
    """
    random_generator, random_discriminator = init_variables(config)
    if generator_variables is None:
        generator_variables = random_generator
    if discriminator_variables is None:
        discriminator_variables = random_discriminator
    optimizer = make_optimizer(config.optimizer)

    def network_state(variables: dict[str, Any]) -> NetworkState:
        params = variables["params"]
        return NetworkState(params, variables["batch_stats"], optimizer.init(params))

    generator_state = network_state(generator_variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator_state,
        discriminator=network_state(discriminator_variables),
        # Copies: a donated state must not hold one buffer twice.
        ema=jax.tree.map(jnp.copy, generator_state.variables) if config.ema_decay else None,
        rng=jax.random.key(config.seed),
    )
