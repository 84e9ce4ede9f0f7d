"""The training run, one story: restore, step, log, evaluate, save."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from clu import parameter_overview
from jax import Array
from jax.sharding import Mesh

from glinpaint_jax.config import Config
from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.pipeline import FailureLog, train_batches
from glinpaint_jax.data.sources import Source
from glinpaint_jax.data.workers import restart_dead_workers
from glinpaint_jax.distributed import local_batch_size, make_mesh, replicated, to_global
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation.evaluate import evaluate, make_generator_completion, sample_rows
from glinpaint_jax.files import lock_file, refuse_unwritable
from glinpaint_jax.models.networks import Variables, abstract_variables, make_networks
from glinpaint_jax.runs.checkpoints import Checkpoints
from glinpaint_jax.runs.progress import Interval, SkippedUpdates
from glinpaint_jax.runs.report import Reporter, say
from glinpaint_jax.runs.resume import newest_whole_step
from glinpaint_jax.runs.stopping import Stop, StopEvaluation, stopping
from glinpaint_jax.training.phases import Phase, phase_at
from glinpaint_jax.training.state import TrainState, create_state
from glinpaint_jax.training.step import make_steps
from glinpaint_jax.weights import load_weights, steps_in

SAMPLE_COLUMNS = 8


def train(config: Config, workdir: Path) -> None:
    """Trains to config.num_steps in `workdir`, from its newest whole checkpoint if it holds one.

    SIGTERM and SIGINT end it earlier, after the step at hand and a save. `config` has been
    validated. Raises UserError for data, a batch size or a workdir that will not do, and for what
    goes wrong underway and cannot be mended.
    """
    mesh = make_mesh()
    local_batch = local_batch_size(config.global_batch_size, mesh)
    train_source, eval_sources = open_sources(
        config.data.source, config.data.eval_source, config.data.eval_images
    )
    origin = None if steps_in(workdir) else starting_networks(config)
    make_workdir(workdir)
    with contextlib.ExitStack() as closing:
        stop = closing.enter_context(stopping(mesh))
        if jax.process_index() == 0:
            closing.enter_context(lock_file(workdir / "lock"))
        newest = newest_whole_step(workdir, say)
        checkpoints = Checkpoints(workdir, say, config.max_failed_saves)
        closing.callback(checkpoints.close)
        if newest is None:
            state, examples, story = create(config, mesh, origin or starting_networks(config))
        else:
            state, examples = checkpoints.restore(config, mesh, newest, len(train_source))
            story = f"resuming at step {newest} of {config.num_steps}"
        start = int(state.step)
        if start >= config.num_steps:
            story = f"nothing to do: the workdir's run has finished its {start} steps"

        with refuse_unwritable(workdir):
            reporter = Reporter(workdir, start, config.num_steps, active=jax.process_index() == 0)
        closing.callback(reporter.close)
        describe(reporter, config, mesh, state, train_source, eval_sources)
        reporter.say(story)
        evaluate_state = make_evaluation(config, mesh, eval_sources, reporter, stop)
        steps = make_steps(config, mesh)
        interval = Interval(reporter, config)
        failures = FailureLog(train_source, say)
        skipped = SkippedUpdates(config, train_source, reporter.say)
        batches = open_batches(train_source, config, local_batch, examples)
        closing.callback(batches.close)
        for step in range(start + 1, config.num_steps + 1):  # the step at hand counts from 1
            phase = phase_at(step - 1, config.phases)
            batch = to_global(failures.take(next(batches)), mesh)
            with interval.paused(when=phase not in interval.phases):  # the first call compiles
                state, metrics = steps[phase](state, batch)
            interval.add(step, phase, metrics)
            skipped.add(step, metrics)

            last, l1 = step == config.num_steps, None
            if last or step % config.eval_every == 0:
                with interval.paused():
                    l1 = evaluate_state(state, step, phase)
            stopped = stop.agreed()
            if last or step % config.checkpoint_every == 0 or stopped:
                with interval.paused():
                    checkpoints.save(state, config, step, len(train_source), l1)
            if stopped:
                break
            checkpoints.settle(wait=False)
        interval.close()
        skipped.close()
        checkpoints.finish()
        if start < config.num_steps and not last:
            reporter.say(f"stopped at step {step} of {config.num_steps}; the same command goes on")


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


class Origin(NamedTuple):
    """What a new run starts from: networks, None for random ones, and a line that says so."""

    generator: Variables | None
    discriminator: Variables | None
    story: str


def starting_networks(config: Config) -> Origin:
    """Those of config.init_from. Raises UserError where it holds another generator."""
    if not config.init_from:
        return Origin(None, None, f"starting from random weights, seed {config.seed}")
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

    discriminator, story = weights.discriminator, f"starting from {config.init_from}"
    if discriminator is None:
        story += ", which holds no discriminator: that starts from random weights"
    elif shapes(discriminator) != shapes(abstract_variables(config)[1]):
        discriminator = None
        story += (
            f", whose discriminator is for images of {weights.config.image_size}, not "
            f"{config.image_size}: that starts from random weights"
        )
    return Origin(weights.generator, discriminator, story)


def create(config: Config, mesh: Mesh, origin: Origin) -> tuple[TrainState, int, str]:
    """The state of a new run, no examples, and a line that says where it is from."""
    make = jax.jit(
        lambda networks: create_state(config, *networks),
        in_shardings=replicated(mesh),
        out_shardings=replicated(mesh),
    )
    return make((origin.generator, origin.discriminator)), 0, origin.story


def open_batches(
    source: Source, config: Config, local_batch: int, start: int
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the stream from example `start` on, whatever becomes of workers."""
    share = functools.partial(
        train_batches,
        source,
        config,
        local_batch_size=local_batch,
        process=jax.process_index(),
        count=jax.process_count(),
    )
    return restart_dead_workers(share, start, config.global_batch_size, say)


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
    config: Config, mesh: Mesh, sources: dict[str, Source], reporter: Reporter, stop: Stop
) -> Callable[[TrainState, int, Phase], float | None]:
    """A function that evaluates a state on all sets, reports, and returns the first set's l1.

    Where the run is to stop it does nothing, or nothing more, and returns None.
    """
    generator, _ = make_networks(config)
    completion_for = make_generator_completion(config, generator, mesh)
    columns = SAMPLE_COLUMNS // len(sources)

    def evaluate_state(state: TrainState, step: int, phase: Phase) -> float | None:
        completion = completion_for(state.eval_variables)

        def until_stopped(*batch: Any) -> Array:
            if stop.agreed():
                raise StopEvaluation
            return completion(*batch)

        scores, rows = {}, []
        try:
            for name, source in sources.items():
                scores[name] = evaluate(until_stopped, source, config, mesh, say)
                rows.append(sample_rows(completion, source, config, mesh, columns))
        except StopEvaluation:
            return None
        reporter.evaluation(step, phase.value, scores)
        reporter.samples(step, np.concatenate(rows, axis=1))
        return next(iter(scores.values()))["l1"]

    return evaluate_state
