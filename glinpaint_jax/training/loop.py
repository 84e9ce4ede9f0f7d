"""The training run: restore, step, log, evaluate, save."""

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
from glinpaint_jax.data.datasets import Sources, open_sources
from glinpaint_jax.data.holes import paired_mask_folder
from glinpaint_jax.data.pipeline import FailureLog, train_batches
from glinpaint_jax.data.sources import Source
from glinpaint_jax.data.workers import restart_dead_workers
from glinpaint_jax.distributed import (
    local_batch_size,
    make_mesh,
    replicated,
    require_same,
    to_global,
)
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation.evaluate import evaluate, make_generator_completion, sample_rows
from glinpaint_jax.files import (
    LOCK,
    in_bucket,
    lock_file,
    report_unwritable,
    unknown_to_orbax,
)
from glinpaint_jax.models.networks import Variables, abstract_variables, make_networks
from glinpaint_jax.runs.checkpoints import Checkpoints
from glinpaint_jax.runs.progress import Progress
from glinpaint_jax.runs.report import Reporter, say
from glinpaint_jax.runs.resume import recover_newest_step, restore
from glinpaint_jax.runs.stopping import Stop, StopEvaluation, stop_on_signals
from glinpaint_jax.step_folders import steps_in
from glinpaint_jax.training.phases import Phase, period_at, phase_at, phases_between
from glinpaint_jax.training.programs import compile_steps
from glinpaint_jax.training.state import TrainState, abstract_state, create_state
from glinpaint_jax.weights import load_weights

SAMPLE_COLUMNS = 8


def train(config: Config, workdir: Path, accept_changed_data: bool = False) -> None:
    """Trains to config.num_steps in `workdir`, resuming from its newest complete checkpoint.

    SIGTERM, SIGINT and SIGHUP finish the current step, save and return. `config` must be validated.
    Raises UserError for unusable data, batch sizes or workdirs, for processes that differ and for
    failures during the run.
    """
    sources = open_sources(config.data.source, config.data.eval_source, config.data.eval_images)
    flags = {"--accept-changed-data": accept_changed_data}
    require_same(config, sources.fingerprints() | flags)
    mesh = make_mesh()
    local_batch = local_batch_size(config.global_batch_size, mesh, config.microbatches)
    for source in sources.evaluation.values():
        paired_mask_folder(source, config.mask)  # otherwise a missing one ends the run much later
    networks = None if steps_in(workdir) else initial_networks(config)
    make_workdir(workdir)
    with contextlib.ExitStack() as closing:
        stop = closing.enter_context(stop_on_signals(mesh))
        if jax.process_index() == 0:
            closing.enter_context(lock_file(workdir / LOCK))
        newest = recover_newest_step(workdir, say)
        if newest is None:
            state, examples, origin = create(config, mesh, networks or initial_networks(config))
        else:
            abstract = abstract_state(config, mesh)
            state, examples = restore(
                workdir, newest, config, sources.train, abstract, say, accept_changed_data
            )
            origin = f"resuming at step {newest} of {config.num_steps}"
        start = int(state.step)
        with report_unwritable(workdir):
            reporter = Reporter(workdir, start, config.num_steps, active=jax.process_index() == 0)
        closing.callback(reporter.close)
        describe(reporter, config, mesh, state, sources.description)
        reporter.say(origin)
        if start >= config.num_steps:
            reporter.say(f"nothing to do: the run has finished its {start} steps")
            return
        checkpoints = Checkpoints(workdir, say, config.max_failed_saves)
        closing.callback(checkpoints.close)
        run = Run(config, mesh, sources, reporter, checkpoints, stop)
        batches = open_batches(sources.train, config, local_batch, examples)
        closing.callback(batches.close)
        step = run_steps(run, state, start, batches)
        checkpoints.finish()
        if step < config.num_steps:
            reporter.say(f"stopped at step {step} of {config.num_steps}; rerun to resume")


class Run(NamedTuple):
    """What the steps of a run share."""

    config: Config
    mesh: Mesh
    sources: Sources
    reporter: Reporter
    checkpoints: Checkpoints
    stop: Stop


def run_steps(
    run: Run, state: TrainState, start: int, batches: Iterator[dict[str, np.ndarray]]
) -> int:
    """Trains from step `start` to the end or a request to stop; returns the last step."""
    config, mesh, checkpoints = run.config, run.mesh, run.checkpoints
    source = run.sources.train
    data = {"images": len(source), "fingerprint": source.fingerprint()}
    failures = FailureLog(say)
    evaluate_state = make_evaluation(run, failures)
    progress = Progress(run.reporter, config, source)
    for step in range(start + 1, config.num_steps + 1):  # counts from 1
        phase = phase_at(step - 1, config.phases)
        batch = to_global(failures.take(next(batches)), mesh)
        if step == start + 1:
            with progress.paused():
                steps = compile_steps(config, mesh, state, batch, start, run.reporter)
        state, metrics = steps[phase](state, batch)
        progress.add(step, phase.value, metrics)

        is_last, scores = step == config.num_steps, None
        if is_last:
            progress.close()  # the last losses are printed before the last scores
        if is_last or step % config.eval_every == 0:
            with progress.paused():
                scores = evaluate_state(state, step, phase.value)
        stopped = run.stop.is_agreed()
        if is_last or stopped or is_saved(step, config):
            period = period_at(step - 1, config.phases).value
            with progress.paused():
                run.reporter.flush()  # a killed run has the records of its checkpoints
                checkpoints.save(state, config, step, phase=period, scores=scores, **data)
        if stopped:
            break
        checkpoints.settle(wait=False)
    progress.close()
    return step


def is_saved(step: int, config: Config) -> bool:
    milestone = config.keep_every > 0 and step % config.keep_every == 0
    return milestone or step % config.checkpoint_every == 0


def make_workdir(workdir: Path) -> None:
    """Creates the workdir. Raises UserError if files cannot be written there.

    A bucket has no folders; that it can be written shows when the run locks its workdir.
    """
    if unknown_to_orbax(workdir) and jax.process_count() > 1:
        raise UserError(
            f"--workdir={workdir}: several processes need gs:// or a disk that all of them share"
        )
    if in_bucket(workdir):
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to workdir {workdir}: {error.strerror}; pass --workdir=DIR"
        ) from None


class InitialNetworks(NamedTuple):
    """The networks a new run starts from (None: random weights), and a line that says so."""

    generator: Variables | None
    discriminator: Variables | None
    description: str


def initial_networks(config: Config) -> InitialNetworks:
    """Loads config.init_from. Raises UserError if its generator does not fit the config."""
    if not config.init_from:
        return InitialNetworks(None, None, f"starting from random weights, seed {config.seed}")
    weights = load_weights(config.init_from)
    for name in ("width", "output", "base"):
        found, wanted = getattr(weights.config.model, name), getattr(config.model, name)
        if found != wanted:
            raise UserError(
                f"config.init_from={config.init_from} has model.{name} {found!r}, this config "
                f"{wanted!r}; pass --config.model.{name}={found}"
            )

    def shapes(tree: Any) -> Any:
        return jax.tree.map(np.shape, tree)

    discriminator, description = weights.discriminator, f"starting from {config.init_from}"
    if discriminator is None:
        description += ", which has no discriminator: it starts from random weights"
    elif shapes(discriminator) != shapes(abstract_variables(config)[1]):
        discriminator = None
        description += (
            f", whose discriminator is for images of {weights.config.image_size}, not "
            f"{config.image_size}; it starts from random weights"
        )
    return InitialNetworks(weights.generator, discriminator, description)


def create(config: Config, mesh: Mesh, networks: InitialNetworks) -> tuple[TrainState, int, str]:
    """Returns the state of a new run, 0 examples seen, and a line that says where it starts."""
    make = jax.jit(
        lambda variables: create_state(config, *variables),
        in_shardings=replicated(mesh),
        out_shardings=replicated(mesh),
    )
    return make((networks.generator, networks.discriminator)), 0, networks.description


def open_batches(
    source: Source, config: Config, local_batch: int, start: int
) -> Iterator[dict[str, np.ndarray]]:
    """Opens this process's share of the stream from example `start` on; dead workers restart."""
    share = functools.partial(
        train_batches,
        source,
        config,
        local_batch_size=local_batch,
        process=jax.process_index(),
        count=jax.process_count(),
    )
    return restart_dead_workers(share, start, config.global_batch_size, say)


def describe(reporter: Reporter, config: Config, mesh: Mesh, state: TrainState, found: str) -> None:
    """Prints what is about to run; writes the list of parameters to parameters.txt."""
    networks = {"generator": state.generator.params, "discriminator": state.discriminator.params}
    for name, params in networks.items():
        parts = ", ".join(
            f"{part} {parameter_overview.count_parameters(tree):,}" for part, tree in params.items()
        )
        reporter.say(f"{name} {parameter_overview.count_parameters(params):,} parameters: {parts}")
    overview = parameter_overview.get_parameter_overview(networks, include_stats=False)
    reporter.text("parameters.txt", overview)
    devices = mesh.devices.flat
    fill = "smoothly"
    if config.model.base == "none":
        fill = f"with RGB {', '.join(f'{value:g}' for value in config.mask.fill)}"
    reporter.say(
        f"{devices[0].device_kind} x {len(devices)}, {jax.process_count()} process(es); "
        f"{config.precision}; global batch {config.global_batch_size}\n{found}\n"
        f"holes of kind {config.mask.kind}, filled {fill}"
    )
    unreached = unreached_phase(config)
    if unreached:
        reporter.say(unreached)


def unreached_phase(config: Config) -> str:
    """Says what num_steps is too small to train; empty if the run trains both networks jointly."""
    reached = phases_between(0, config.num_steps, config.phases)
    if Phase.JOINT in reached:
        return ""
    return f"num_steps={config.num_steps} ends in the {reached[-1].value} phase; " + (
        "the generator is never trained against the discriminators"
        if Phase.DISCRIMINATOR in reached
        else "the discriminators are never trained"
    )


def make_evaluation(
    run: Run, failures: FailureLog
) -> Callable[[TrainState, int, str], dict[str, float] | None]:
    """Returns a function (state, step, phase) -> scores of the first set; it reports all scores.

    If the run is asked to stop, it ends early and returns None.
    """
    config, mesh, sources = run.config, run.mesh, run.sources.evaluation
    generator, _ = make_networks(config)
    completion_for = make_generator_completion(config, generator, mesh)
    columns = SAMPLE_COLUMNS // len(sources)

    def evaluate_state(state: TrainState, step: int, phase: str) -> dict[str, float] | None:
        completion = completion_for(state.eval_variables)

        def until_stopped(*batch: Any) -> Array:
            if run.stop.is_agreed():
                raise StopEvaluation
            return completion(*batch)

        scores, rows = {}, []
        try:
            for name, source in sources.items():
                scores[name] = evaluate(until_stopped, source, config, mesh, failures)
                rows.append(sample_rows(completion, source, config, mesh, failures, columns))
        except StopEvaluation:
            return None
        run.reporter.evaluation(step, phase, scores)
        run.reporter.samples(step, np.concatenate(rows, axis=1))
        return next(iter(scores.values()))

    return evaluate_state
