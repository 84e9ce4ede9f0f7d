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
        num_steps=2300,
        global_batch_size=16,
        image_size=32,
        log_every=50,
        eval_every=460,
        checkpoint_every=460,
        ema_decay=0.99,
        model=ModelConfig(width=16),
        data=DataConfig(
            source="photos",
            eval_images=96,
            num_workers=0,
            crop="resize_then_crop",  # all scales: with seven photographs variety is scarce
            crop_size=128,
            horizontal_flip=True,
        ),
        mask=MaskConfig(max_size=16, max_delta=5, margin=2),
        phases=PhasesConfig(completion_end=1800, discriminator_end=1900),
        losses=LossConfig(l1_valid=1.0, adversarial=0.001),
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine"),
    )
