"""Places365-Challenge at 256x256, with MMagic's settings (gl_8xb12_places-256x256).

    python -m glinpaint_jax.main --config configs/places.py

Data: data/Places in MMagic's layout (data_large/, val_large/) or at 256x256 (data_256/, val_256/),
or a prepared TFDS places365_small; see docs/data.md. Evaluates on all 36,500 validation images.
Without data, try the config with --config.data.source=photos --config.global_batch_size=12.
Hardware: 8 accelerators with 12 images each. On one GPU, add --config.global_batch_size=12.
Expected (MMagic, 500k steps, Places365-val): L1 11.164, PSNR 23.152, SSIM 0.862.
"""

from glinpaint_jax.config import Config, DataConfig, LossConfig, PhasesConfig


def get_config() -> Config:
    return Config(
        num_steps=500_002,
        global_batch_size=96,
        image_size=256,
        eval_every=50_000,
        checkpoint_every=5_000,
        keep_every=50_000,
        data=DataConfig(
            source="folder:data/Places|tfds:places365_small:train",
            eval_images=36_500,
        ),
        phases=PhasesConfig(completion_end=90_000, discriminator_end=100_000),
        losses=LossConfig(l1_hole=1.0, adversarial=0.001),
    )
