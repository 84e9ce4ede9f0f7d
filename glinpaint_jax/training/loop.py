"""The training run, one story: restore, step, log, evaluate, save."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh

from glinpaint_jax.config import Config
from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.pipeline import FailureLog, train_batches
from glinpaint_jax.data.sources import Source
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation.evaluate import evaluate, make_generator_completion, sample_rows
from glinpaint_jax.models.networks import Variables, abstract_variables, make_networks
from glinpaint_jax.parallel import local_batch_size, make_mesh, replicated, to_global
from glinpaint_jax.training.checkpoints import Checkpoints
from glinpaint_jax.training.interval import Interval
from glinpaint_jax.training.phases import Phase, phase_at
from glinpaint_jax.training.report import Reporter
from glinpaint_jax.training.state import TrainState, create_state
from glinpaint_jax.training.step import make_steps
from glinpaint_jax.weights import load_weights

SAMPLE_COLUMNS = 8


def train(config: Config, workdir: Path) -> None:
    """Trains to config.num_steps in `workdir`, from its newest checkpoint if it holds one.

    `config` has been validated. Raises UserError for data, a batch size or a workdir that will
    not do.
    """
    mesh = make_mesh()
    local_batch = local_batch_size(config.global_batch_size, mesh)
    train_source, eval_sources = open_sources(
        config.data.source, config.data.eval_source, config.data.eval_images
    )
    make_workdir(workdir)
    checkpoints = Checkpoints(workdir)
    state, examples, origin = restore_or_create(checkpoints, config, mesh)
    start = int(state.step)

    reporter = Reporter(workdir, start, config.num_steps, active=jax.process_index() == 0)
    describe(reporter, config, mesh, state, train_source, eval_sources)
    reporter.say(origin)
    evaluate_state = make_evaluation(config, mesh, eval_sources, reporter)
    steps = make_steps(config, mesh)
    interval = Interval(reporter, config)
    failures = FailureLog(train_source, reporter.warn)
    batches = train_batches(
        train_source,
        config,
        start=examples,
        local_batch_size=local_batch,
        process=jax.process_index(),
        count=jax.process_count(),
    )
    try:
        for step in range(start, config.num_steps):
            phase = phase_at(step, config.phases)
            batch = to_global(failures.take(next(batches)), mesh)
            with interval.paused(when=phase not in interval.phases):  # the first call compiles
                state, metrics = steps[phase](state, batch)
            interval.add(step + 1, phase, metrics)

            last, l1 = step + 1 == config.num_steps, None
            if (step + 1) % config.eval_every == 0 or last:
                with interval.paused():
                    l1 = evaluate_state(state, step + 1, phase)
            if (step + 1) % config.checkpoint_every == 0 or last:
                with interval.paused():
                    checkpoints.save(state, config, step + 1, l1)
        interval.close()
    finally:
        batches.close()
        checkpoints.close()
        reporter.close()


def make_workdir(workdir: Path) -> None:
    """Raises UserError where files cannot be written there."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to workdir {workdir}: {error.strerror}; pass --workdir=DIR"
        ) from None


def restore_or_create(
    checkpoints: Checkpoints, config: Config, mesh: Mesh
) -> tuple[TrainState, int, str]:
    """The state, the number of examples it has been fed, and a line that says where it is from."""
    if checkpoints.latest_step() is not None:
        state, examples = checkpoints.restore(config, mesh)
        step, last = int(state.step), config.num_steps
        if step < last:
            return state, examples, f"resuming at step {step} of {last}"
        return state, examples, f"nothing to do: the workdir's run has finished its {step} steps"

    networks, origin = starting_networks(config)
    create = jax.jit(
        lambda networks: create_state(config, *networks),
        in_shardings=replicated(mesh),
        out_shardings=replicated(mesh),
    )
    return create(networks), 0, origin


def starting_networks(
    config: Config,
) -> tuple[tuple[Variables | None, Variables | None], str]:
    """The generator and the discriminator that a new run starts from, None for random ones.

    With a line that says so. Raises UserError where config.init_from holds another generator.
    """
    if not config.init_from:
        return (None, None), f"starting from random weights, seed {config.seed}"
    weights = load_weights(Path(config.init_from))
    for name in ("width", "output"):
        found, wanted = getattr(weights.config.model, name), getattr(config.model, name)
        if found != wanted:
            raise UserError(
                f"config.init_from={config.init_from} has model.{name} {found!r}, this config "
                f"{wanted!r}; pass --config.model.{name}={found}"
            )

    def shapes(tree: Any) -> Any:
        return jax.tree.map(np.shape, tree)

    _, abstract_discriminator = abstract_variables(config)
    discriminator, origin = weights.discriminator, f"starting from {config.init_from}"
    if shapes(discriminator) != shapes(abstract_discriminator):
        discriminator = None
        origin += ", but from a random discriminator: it holds none for this image size"
    return (weights.generator, discriminator), origin


def describe(
    reporter: Reporter,
    config: Config,
    mesh: Mesh,
    state: TrainState,
    train_source: Source,
    eval_sources: dict[str, Source],
) -> None:
    """What is about to run; the parameters one by one in parameters.txt."""
    networks = {"generator": state.generator.params, "discriminator": state.discriminator.params}
    for name, params in networks.items():
        parts = ", ".join(
            f"{part} {parameter_overview.count_parameters(tree):,}" for part, tree in params.items()
        )
        reporter.say(f"{name} {parameter_overview.count_parameters(params):,} parameters: {parts}")
    overview = parameter_overview.get_parameter_overview(networks, include_stats=False)
    reporter.text("parameters.txt", overview)
    devices = mesh.devices.flat
    sets = ", ".join(f"{name} {len(source)}" for name, source in eval_sources.items())
    reporter.say(
        f"{devices[0].device_kind} x {len(devices)}, {jax.process_count()} process(es); "
        f"{config.precision}; global batch {config.global_batch_size}\n"
        f"{len(train_source)} training images; evaluation: {sets}"
    )


def make_evaluation(
    config: Config, mesh: Mesh, sources: dict[str, Source], reporter: Reporter
) -> Callable[[TrainState, int, Phase], float]:
    """A function that evaluates a state on all sets, reports, and returns the first set's l1."""
    generator, _ = make_networks(config)
    completion_for = make_generator_completion(config, generator, mesh)
    columns = SAMPLE_COLUMNS // len(sources)

    def evaluate_state(state: TrainState, step: int, phase: Phase) -> float:
        completion = completion_for(state.eval_variables)
        scores, rows = {}, []
        for name, source in sources.items():
            scores[name] = evaluate(completion, source, config, mesh, reporter.warn)
            rows.append(sample_rows(completion, source, config, mesh, columns))
        reporter.evaluation(step, phase.value, scores)
        reporter.samples(step, np.concatenate(rows, axis=1))
        return next(iter(scores.values()))["l1"]

    return evaluate_state
