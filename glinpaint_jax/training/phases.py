"""The three phases of training (the paper's algorithm 1)."""

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
