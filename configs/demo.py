"""A small model on the photographs that come with scikit-image: all three phases in minutes.

    bash scripts/demo.sh

Hardware: 2 CPU cores, under 5 minutes and 4 GB. Expected: see the README's table. Seven
photographs teach a network those seven photographs; a model for others needs others' thousands.
"""

from glinpaint_jax.config import (
    Config,
    DataConfig,
    LossConfig,
    MaskConfig,
    ModelConfig,
    OptimizerConfig,
    PhasesConfig,
)


def get_config() -> Config:
    return Config(
        num_steps=700,
        global_batch_size=16,
        image_size=64,
        log_every=20,
        eval_every=100,
        checkpoint_every=100,
        ema_decay=0.98,
        model=ModelConfig(width=16),
        data=DataConfig(source="photos", eval_images=64, num_workers=0, crop_size=128),
        mask=MaskConfig(max_size=32, max_delta=10, margin=5),
        phases=PhasesConfig(completion_end=400, discriminator_end=450),
        losses=LossConfig(l1_valid=0.1, adversarial=0.001),
        optimizer=OptimizerConfig(learning_rate=2e-3),
    )
