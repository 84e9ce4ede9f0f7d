"""Everything a training step reads and writes, as one pytree."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from glinpaint_jax.config import Config, OptimizerConfig
from glinpaint_jax.models.networks import Variables, init_variables
from glinpaint_jax.parallel import replicated


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
    """`step` counts finished steps; `ema` holds the averaged generator variables, or None."""

    step: Any
    generator: NetworkState
    discriminator: NetworkState
    ema: Any
    rng: Any

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The generator's variables for evaluation and export."""
        return self.generator.variables if self.ema is None else self.ema


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradient -> update direction; the step multiplies it by -`learning_rate_at`.

    The constants are PyTorch's defaults, as in MMagic.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.name == "adam":
        return optax.chain(clip, optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8))
    return optax.chain(clip, optax.scale_by_adadelta(rho=0.9, eps=1e-6))


def learning_rate_at(
    step: jax.Array, config: OptimizerConfig, num_steps: int, *, discriminator: bool
) -> jax.Array:
    """The learning rate of one of the networks, a function of the global step."""
    own = config.discriminator_learning_rate if discriminator else 0
    rate = jnp.asarray(own or config.learning_rate, jnp.float32)
    if config.warmup_steps:
        rate *= jnp.minimum((step + 1) / config.warmup_steps, 1)
    if config.schedule == "cosine":
        rate *= 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / num_steps, 1)))
    return rate


def create_state(
    config: Config, generator: Variables | None = None, discriminator: Variables | None = None
) -> TrainState:
    """Returns a new state for `config`; networks that are not given are initialized from its seed.

    Call it under jit: eager initialization is slow.
    """
    new_generator, new_discriminator = init_variables(config)
    optimizer = make_optimizer(config.optimizer)

    def network_state(variables: Variables) -> NetworkState:
        params = variables["params"]
        return NetworkState(params, variables["batch_stats"], optimizer.init(params))

    generator_state = network_state(generator or new_generator)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator_state,
        discriminator=network_state(discriminator or new_discriminator),
        # Copied: a donated state must not contain a buffer twice.
        ema=jax.tree.map(jnp.copy, generator_state.variables) if config.ema_decay else None,
        rng=jax.random.key(config.seed),
    )


def abstract_state(config: Config, mesh: Mesh) -> Any:
    """Returns the shapes, types and shardings of the state of `config`."""
    return jax.jit(partial(create_state, config), out_shardings=replicated(mesh)).eval_shape()
