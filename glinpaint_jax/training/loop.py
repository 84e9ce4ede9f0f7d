"""The training run: restore, compile, then for each step: step, log, evaluate, save."""

import contextlib
import functools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from jaxtyping import UInt8

from glinpaint_jax.config import Config
from glinpaint_jax.data.datasets import Sources, open_sources
from glinpaint_jax.data.holes import paired_mask_folder
from glinpaint_jax.data.pipeline import FailureLog, record_numbers, train_batches
from glinpaint_jax.data.sources import Source
from glinpaint_jax.data.workers import restart_dead_workers
from glinpaint_jax.downloads import hide_secrets
from glinpaint_jax.errors import UserError
from glinpaint_jax.evaluation.evaluate import (
    CompleteBatch,
    evaluate,
    evaluation_sets,
    make_generator_completion,
)
from glinpaint_jax.files import lock_workdir, report_unwritable, write_atomically
from glinpaint_jax.models.networks import Variables, make_networks
from glinpaint_jax.parallel import local_batch_size, make_mesh, replicated, to_global
from glinpaint_jax.processes import require_same
from glinpaint_jax.runs.checkpoints import Checkpoints
from glinpaint_jax.runs.progress import Progress, traced
from glinpaint_jax.runs.report import Reporter, log
from glinpaint_jax.runs.resume import describe_source, recover_newest_step, restore
from glinpaint_jax.runs.stopping import EvaluationStopped, Stop, stop_on_signals
from glinpaint_jax.step_folders import steps_in
from glinpaint_jax.training.compile import compile_steps
from glinpaint_jax.training.phases import phase_at, stage_at
from glinpaint_jax.training.state import TrainState, abstract_state, create_state
from glinpaint_jax.weights import load_weights

SAMPLE_COLUMNS = 8


def train(
    config: Config, workdir: Path, accepted: Collection[str] = (), profiled_steps: int = 0
) -> None:
    """Trains to config.num_steps in `workdir`, resuming from its newest complete checkpoint.

    SIGTERM, SIGINT and SIGHUP finish the current step, save and return. `config` must be validated;
    `accepted` is as for `restore`. Raises UserError for unusable data, batch sizes or workdirs, for
    processes that differ and for failures during the run.
    """
    sources = open_sources(config.data.source, config.data.eval_source, config.data.eval_images)
    require_same(config, sources.fingerprints() | {"accepted changes": sorted(accepted)})
    mesh, is_first = make_mesh(), jax.process_index() == 0
    local_batch = local_batch_size(config.global_batch_size, config.microbatches, mesh)
    for source, own in evaluation_sets(sources, config).values():
        paired_mask_folder(source, own.mask)  # otherwise a missing one ends the run much later
    # Before anything is written. A run that resumes does not need them.
    networks = None if steps_in(workdir) else initial_networks(config)
    with report_unwritable(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        stop = closing.enter_context(stop_on_signals(mesh))
        if is_first:
            closing.enter_context(lock_workdir(workdir))

        newest = recover_newest_step(workdir, log)
        if newest is None:
            *networks, origin = networks or initial_networks(config)
            create, everywhere = functools.partial(create_state, config), replicated(mesh)
            create = jax.jit(create, in_shardings=everywhere, out_shardings=everywhere)
            state = create(*networks)
            data = {"examples": 0, "changes": []} | describe_source(sources.train)
        else:
            abstract = abstract_state(config, mesh)
            state, data = restore(workdir, newest, config, sources.train, abstract, log, accepted)
            origin = f"resuming at step {newest} of {config.num_steps}"
        start = int(state.step)
        reporter = Reporter(workdir, start, config)
        closing.callback(reporter.close)
        if is_first:
            describe(config, workdir, mesh, state, sources.description)
        reporter.log(origin)
        if start >= config.num_steps:
            reporter.log(f"nothing to do: the run has finished its {start} steps")
            return

        # Before compiling: what workers lack ends the run at once.
        batches = open_batches(sources.train, config, local_batch, data["examples"])
        closing.callback(batches.close)
        if profiled_steps:
            batches = traced(batches, workdir, profiled_steps, reporter.log)
            closing.callback(batches.close)
        checkpoints = Checkpoints(workdir, config, log)
        closing.callback(checkpoints.close)
        run_steps(config, mesh, sources, state, data, batches, reporter, checkpoints, stop)


def run_steps(
    config: Config,
    mesh: Mesh,
    sources: Sources,
    state: TrainState,
    data: dict[str, Any],
    batches: Iterator[dict[str, np.ndarray]],
    reporter: Reporter,
    checkpoints: Checkpoints,
    stop: Stop,
) -> None:
    """Trains `state` to the last step or a request to stop. `data` is what `restore` returns."""
    start, batch_size = int(state.step), config.global_batch_size
    steps = compile_steps(config, mesh, state, reporter.log)
    failures = FailureLog(log)
    first = data["examples"] - batch_size * start  # the example that step 1 would have
    name_images = functools.partial(describe_images, sources.train, config, first)
    progress = Progress(reporter, config, name_images)
    completion_with = make_generator_completion(make_networks(config)[0], config.mask.fill, mesh)
    for step in range(start + 1, config.num_steps + 1):  # counts from 1
        phase = phase_at(step - 1, config.phases)
        batch = to_global(failures.take(next(batches)), mesh)
        with jax.transfer_guard("disallow"):  # nothing else moves, except metrics when reported
            state, metrics = steps[phase](state, batch)
            progress.add(step, phase.value, metrics)

        is_last, ranking, failure = step == config.num_steps, None, None
        if is_last or step % config.eval_every == 0:
            completion = stop.interrupting(completion_with(state.eval_variables))
            with progress.paused():
                try:
                    scores, rows = evaluate_sets(completion, sources, config, mesh, failures)
                    first_scores, *_ = scores.values()
                    ranking = {"phase": stage_at(step - 1, config.phases).value} | first_scores
                    reporter.evaluation(step, phase.value, scores)
                    reporter.samples(step, rows)
                except EvaluationStopped:
                    pass
                except Exception as error:  # raised below, after a due save
                    if jax.process_count() > 1:
                        raise  # the other processes still evaluate: they would not join in the save
                    failure = error
        is_stopped = stop.is_agreed()
        if is_last or is_stopped or is_save_due(step, config):
            with progress.paused():
                reporter.flush()  # a killed run has the records of its checkpoints
                seen = {"examples": first + batch_size * step}
                checkpoints.save(state, step, data | seen, ranking)
        if failure is not None:
            raise failure
        if is_stopped:
            break
    progress.close()
    checkpoints.finish()
    if step < config.num_steps:
        reporter.log(f"stopped at step {step} of {config.num_steps}; rerun to resume")


def is_save_due(step: int, config: Config) -> bool:
    is_kept = config.keep_every > 0 and step % config.keep_every == 0
    return is_kept or step % config.checkpoint_every == 0


def evaluate_sets(
    completion: CompleteBatch, sources: Sources, config: Config, mesh: Mesh, failures: FailureLog
) -> tuple[dict[str, dict[str, float]], UInt8[np.ndarray, "3 columns h w 3"]]:
    """Returns the scores of each evaluation set, and rows of samples: masked, completed, original.

    The first set is the most important.
    """
    scores, rows, sets = {}, [], evaluation_sets(sources, config)
    columns = max(1, SAMPLE_COLUMNS // len(sets))
    for name, (source, own) in sets.items():
        scores[name], pictures = evaluate(completion, source, own, mesh, failures)
        rows.append(pictures[:, :columns])
    return scores, np.concatenate(rows, axis=1)


def initial_networks(config: Config) -> tuple[Variables | None, Variables | None, str]:
    """Returns config.init_from's networks, None for random weights, and a line that says so."""
    if not config.init_from:
        return None, None, f"starting from random weights, seed {config.seed}"
    weights, place = load_weights(config.init_from), hide_secrets(config.init_from)
    for name in ("width", "output", "base", "padding"):
        found, wanted = getattr(weights.config.model, name), getattr(config.model, name)
        if found != wanted:
            raise UserError(
                f"config.init_from={place} has model.{name} {found!r}, this config "
                f"{wanted!r}; pass --config.model.{name}={found}"
            )
    discriminator, size = weights.discriminator, weights.config.image_size
    fill, phase = weights.config.mask.fill, phase_at(0, config.phases).value
    fate = "its discriminator comes along"
    if discriminator is None:
        fate = "it has no discriminator, which starts from random weights"
    elif size != config.image_size:  # a discriminator fits only one size
        discriminator = None
        fate = (
            f"its discriminator is for images of {size}, not {config.image_size}, so this one "
            "starts from random weights"
        )
    origin = f"starting from {place} in the {phase} phase; {fate}"
    if config.model.base == "none" and fill != config.mask.fill:
        origin += f"; it saw the color {fill} in holes, now mask.fill is {config.mask.fill}"
    return weights.generator, discriminator, origin


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
    return restart_dead_workers(share, start, config.global_batch_size, log)


def describe(config: Config, workdir: Path, mesh: Mesh, state: TrainState, data: str) -> None:
    """Prints what is about to run; writes the list of parameters to parameters.txt."""
    networks = {"generator": state.generator.params, "discriminator": state.discriminator.params}
    for name, params in networks.items():
        log(f"{name}: {parameter_overview.count_parameters(params):,} parameters")
    overview = parameter_overview.get_parameter_overview(networks, include_stats=False)
    with report_unwritable(workdir):
        write_atomically(workdir / "parameters.txt", f"{overview}\n".encode())
    devices = mesh.devices.flat
    log(
        f"{devices[0].device_kind} x {len(devices)}, {jax.process_count()} process(es); "
        f"{config.precision}; global batch {config.global_batch_size}\n{data}"
    )


def describe_images(source: Source, config: Config, first: int, step: int) -> str:
    """Names the training images of a step, if those of step 1 begin at example `first`."""
    order, size = record_numbers(len(source), config.seed), config.global_batch_size
    end = first + step * size
    records = [int(order[number]) for number in range(end - size, end)]
    return f"images: records {records}, the first {source.name(records[0])}"
