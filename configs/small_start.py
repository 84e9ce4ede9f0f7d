"""The first stage of configs/small.py: 32x32, boxes only, from random weights.

    bash scripts/train_small.sh

At 64x64 with strokes, a network with random weights learns nothing that the smooth fill lacks.
"""

import dataclasses

from glinpaint_jax.config import Config, MaskConfig, PhasesConfig
from glinpaint_jax.configs import small

STEPS = 6250  # 100,000 images


def get_config() -> Config:
    base = small.get_config()
    return dataclasses.replace(
        base,
        num_steps=STEPS,
        init_from="",
        global_batch_size=16,
        image_size=32,
        eval_every=1250,
        checkpoint_every=250,
        keep_every=0,
        data=dataclasses.replace(
            base.data,
            source="folder:data/small_photos_128/train",
            eval_source="folder:data/small_photos_128/val:repeated.txt",
            crop_size=128,
        ),
        mask=MaskConfig(max_size=16, max_delta=10, margin=2),  # squares of 11 to 16
        phases=PhasesConfig(completion_end=STEPS, discriminator_end=STEPS),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=4e-3),
    )
