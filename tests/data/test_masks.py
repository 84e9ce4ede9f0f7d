import numpy as np
import pytest

from glinpaint_jax.config import MaskConfig
from glinpaint_jax.data import masks
from glinpaint_jax.errors import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("square", [False, True])
def test_boxes_stay_within_mmagic_limits(square):
    """256x256, max 128, delta 40, margin 20: top ~ U{20..107} + U{0..20}, height 128 - that."""
    generator, config = rng(), MaskConfig()
    drawn = [masks.random_bbox(generator, 256, 256, config, square=square) for _ in range(2000)]
    top, left, height, width = np.transpose(drawn)
    for position, side in ((top, height), (left, width)):
        shrunk = 128 - side
        assert set(shrunk) == set(range(21))
        placed = position - shrunk
        assert (placed.min(), placed.max()) == (20, 107)
        assert len(set(placed)) == 88
        assert (position + side <= 256 - 20).all()
    assert (height == width).all() if square else (height != width).mean() > 0.9


@pytest.mark.parametrize("draw", [masks.irregular_mask, masks.free_form_mask])
@pytest.mark.parametrize(("size", "limits"), [(256, (0.15, 0.5)), (64, (0.2, 0.3))])
def test_strokes_stay_within_area_limits(draw, size, limits):
    config = MaskConfig(min_area=limits[0], max_area=limits[1])
    areas = []
    for seed in range(100):
        mask = draw(rng(seed), size, size, config)
        assert mask.shape == (size, size, 1)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        areas.append(mask.mean())
    assert limits[0] <= min(areas) < max(areas) <= limits[1]
    assert np.ptp(areas) > 0.5 * (limits[1] - limits[0])


def test_impossible_area_limits_raise():
    with pytest.raises(UserError, match="widen them"):
        masks.irregular_mask(rng(), 64, 64, MaskConfig(min_area=0.85, max_area=0.9))
