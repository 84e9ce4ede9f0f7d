import numpy as np
import pytest

from glinpaint_jax.inference.boxes import Box
from glinpaint_jax.inference.regions import SIZE_STEP, plan_regions
from glinpaint_jax.models.generator import RECEPTIVE_RADIUS, STRIDE
from tests.helpers.completers import draw_hole


@pytest.mark.parametrize("seed", range(20))
def test_regions_cover_all_holes_with_sufficient_crops(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(size) * STRIDE for size in rng.integers(10, 600, 2))
    tile = int(rng.choice([64, 200, 512]))
    boxes = []
    for _ in range(rng.integers(1, 12)):
        top, left = rng.integers(0, height), rng.integers(0, width)
        boxes.append((top, left, top + rng.integers(1, 300), left + rng.integers(1, 300)))
    hole = draw_hole(height, width, *boxes)
    covered = np.zeros_like(hole)
    for crop, kept in plan_regions(hole, tile):
        covered[kept.slices] = True
        assert kept.bottom - kept.top <= tile and kept.right - kept.left <= tile
        assert all(edge % STRIDE == 0 for edge in crop)
        assert crop.top == 0 or 0 < crop.top <= kept.top - RECEPTIVE_RADIUS
        assert crop.left == 0 or 0 < crop.left <= kept.left - RECEPTIVE_RADIUS
        assert crop.bottom >= min(height, kept.bottom + RECEPTIVE_RADIUS)
        assert crop.right >= min(width, kept.right + RECEPTIVE_RADIUS)
        side, other = crop.size  # equal, so that few programs are compiled
        assert side == other and side % SIZE_STEP == 0
        assert side < max(kept.size) + 2 * RECEPTIVE_RADIUS + STRIDE + SIZE_STEP
    assert covered[hole].all()


def test_only_near_holes_share_a_crop():
    near = plan_regions(draw_hole(2048, 2048, (500, 500, 520, 520), (560, 560, 580, 580)), 512)
    assert [kept for _, kept in near] == [Box(500, 500, 580, 580)]
    far = plan_regions(draw_hole(2048, 2048, (10, 10, 30, 30), (1900, 1900, 1920, 1920)), 512)
    assert {kept for _, kept in far} == {Box(10, 10, 30, 30), Box(1900, 1900, 1920, 1920)}
