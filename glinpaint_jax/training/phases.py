"""The three phases of training (the paper's algorithm 1)."""

import dataclasses
import enum

from glinpaint_jax.config import PhasesConfig


class Phase(enum.Enum):
    COMPLETION = "completion"  # the generator alone, reconstruction loss
    DISCRIMINATOR = "discriminator"  # the discriminator alone
    JOINT = "joint"  # both


def phase_at(step: int, phases: PhasesConfig) -> Phase:
    """Returns the phase of `step`, counted from 0 as in MMagic.

    With disc_step n > 1, only every n-th step of the joint phase updates the generator; the steps
    between are DISCRIMINATOR steps.
    """
    if step <= phases.completion_end:
        return Phase.COMPLETION
    if step <= phases.discriminator_end:
        return Phase.DISCRIMINATOR
    if (step - phases.completion_end) % phases.disc_step != 0:
        return Phase.DISCRIMINATOR
    return Phase.JOINT


def stage_at(step: int, phases: PhasesConfig) -> Phase:
    """Returns the phase of `step` as if disc_step were 1: the joint phase does not alternate."""
    return phase_at(step, dataclasses.replace(phases, disc_step=1))


def phases_between(start: int, end: int, phases: PhasesConfig) -> list[Phase]:
    """Returns the phases of the steps start to end - 1, in the order they first occur."""
    return list(dict.fromkeys(phase_at(step, phases) for step in range(start, end)))
