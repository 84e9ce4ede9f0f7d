"""The small network of the package, trained on photographs from Debian and Python packages.

    bash scripts/train_small.sh

The script fetches the photographs, runs this config's first stage (configs/small_start.py: 32x32,
boxes only), then this one from its weights. Boxes, brush strokes and scratches at 64x64.
Hardware: 2 CPU cores; see docs/small.md for the hours and the results.
"""

from glinpaint_jax.config import (
    Config,
    DataConfig,
    FreeFormConfig,
    IrregularConfig,
    MaskConfig,
    ModelConfig,
    OptimizerConfig,
    PhasesConfig,
)

STEPS = 62_500  # half a million images


def get_config() -> Config:
    return Config(
        num_steps=STEPS,
        init_from="runs/small_start",
        global_batch_size=8,
        image_size=64,
        log_every=250,
        eval_every=2500,
        checkpoint_every=500,
        keep_every=2500,  # for the curve in docs/small.md
        ema_decay=0.998,
        model=ModelConfig(width=16, base="smooth"),
        data=DataConfig(
            source="folder:data/small_photos/train",
            eval_source="folder:data/small_photos/val:repeated.txt",  # 16 crops of each
            num_workers=0,  # the photographs are small: decoding takes a millisecond
            crop="resize_then_crop",
            crop_size=320,
            horizontal_flip=True,
        ),
        mask=MaskConfig(
            kind="mixed",
            mixed="rectangle:0.42,free_form:0.33,irregular:0.25",
            max_size=32,
            max_delta=40,  # sides of 12 to 32
            margin=2,
            min_area=0.02,
            max_area=0.4,
            irregular=IrregularConfig(lines=(1, 6), length=(20, 120), width=(4, 24)),
            free_form=FreeFormConfig(width=(8.0, 40.0)),
        ),
        phases=PhasesConfig(completion_end=STEPS, discriminator_end=STEPS),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, schedule="cosine", warmup_steps=500, clip_norm=1.0
        ),
    )
