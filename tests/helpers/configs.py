"""Small configs for tests."""

from glinpaint_jax.config import Config, DataConfig, MaskConfig, ModelConfig, PhasesConfig


def make_small_config(**changes) -> Config:
    """32x32 images, width 4, phases of a few steps."""
    values = {
        "num_steps": 10,
        "global_batch_size": 8,
        "image_size": 32,
        "log_every": 1,
        "eval_every": 5,
        "checkpoint_every": 4,
        "model": ModelConfig(width=4),
        "data": DataConfig(source="photos", eval_images=10, num_workers=0, crop_size=96),
        "mask": MaskConfig(max_size=16, max_delta=4, margin=2),
        "phases": PhasesConfig(completion_end=2, discriminator_end=5),
    } | changes
    return Config(**values).validate()
