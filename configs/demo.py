"""A tiny model, trained on photographs that ship with scikit-image through all three phases.

    bash scripts/demo.sh

Hardware: 2 CPU cores and 4 GB of memory; 3 to 6 minutes.
Expected: the table in docs/benchmarks.md. The model corrects a smooth fill of the hole. With only
seven training photographs, it improves other photographs little; that takes thousands.
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
        model=ModelConfig(width=16, base="smooth"),
        data=DataConfig(
            source="photos",
            eval_images=96,
            num_workers=0,
            crop="resize_then_crop",  # crops of many scales: there are only seven photographs
            crop_size=128,
            horizontal_flip=True,
        ),
        mask=MaskConfig(max_size=16, max_delta=5, margin=2),
        phases=PhasesConfig(completion_end=1800, discriminator_end=1900),
        losses=LossConfig(adversarial=0.001),
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine"),
    )
