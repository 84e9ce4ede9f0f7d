"""The paper's own settings (Iizuka et al. 2017, section 4), on Places at 256x256.

    python -m glinpaint_jax.main --config configs/paper.py

Differences from configs/places.py: squared error in the hole instead of L1, adversarial weight
0.0004, Adadelta, short side resized at random to 256..384 pixels before a 256x256 crop, holes with
independent sides of 96..128 pixels, filled with the mean pixel of Places2, which is also beyond the
border (as in the authors' code), sigmoid output, and a random local window for real samples.
Data: as for configs/places.py.
Hardware: the paper trained for two months on four K80s.
Expected: there are no published L1, PSNR or SSIM numbers to compare with.
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

# The RGB mean that the authors published with their network (completionnet_places2.t7), in 0..1.
# For other photographs, pass their own: --config.mask.fill=R,G,B.
PLACES_MEAN = (0.4560 * 255, 0.4472 * 255, 0.4155 * 255)


def get_config() -> Config:
    return Config(
        num_steps=500_000,
        global_batch_size=96,
        image_size=256,
        model=ModelConfig(output="sigmoid", padding="fill"),
        data=DataConfig(
            source="folder:data/Places|tfds:places365_small:train",
            eval_images=36_500,
            crop="resize_then_crop",
            crop_size=384,
        ),
        mask=MaskConfig(
            kind="rectangle",
            max_size=128,
            max_delta=64,
            margin=0,
            fill=PLACES_MEAN,
        ),
        phases=PhasesConfig(completion_end=90_000, discriminator_end=100_000),
        losses=LossConfig(
            l1_hole=0.0,
            # The paper's images are in [0, 1], ours in [-1, 1]: squared errors are 4 times larger.
            mse_hole=0.25,
            adversarial=0.0004,
            random_real_window=True,
        ),
        optimizer=OptimizerConfig(name="adadelta", learning_rate=1.0),
    )
