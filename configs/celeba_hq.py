"""CelebA-HQ at 256x256, with MMagic's settings (gl_8xb12_celeba-256x256).

    python -m glinpaint_jax.main --config configs/celeba_hq.py

Data: data/CelebA-HQ in MMagic's layout (train_256/, test_256/) or another one with two parts, or a
prepared TFDS celeb_a_hq/256; see docs/data.md, also for MMagic's lists. Evaluates on all
validation images.
Hardware: 8 accelerators with 12 images each. On one GPU, add --config.global_batch_size=12.
Expected (MMagic): L1 6.678, PSNR 26.780, SSIM 0.904.
"""

from glinpaint_jax.config import Config, DataConfig, PhasesConfig


def get_config() -> Config:
    return Config(
        num_steps=300_002,
        global_batch_size=96,
        image_size=256,
        eval_every=50_000,
        checkpoint_every=5_000,
        keep_every=50_000,
        data=DataConfig(
            source="folder:data/CelebA-HQ|tfds:celeb_a_hq/256:train",
            eval_images=30_000,  # as many as CelebA-HQ has: all are used, as MMagic does
        ),
        phases=PhasesConfig(completion_end=40_000, discriminator_end=50_000),
    )
