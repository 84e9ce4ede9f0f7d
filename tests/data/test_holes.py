"""Every kind of hole."""

import hashlib
from collections import Counter

import cv2
import numpy as np
import pytest

from glinpaint_jax.config import DataConfig, MaskConfig
from glinpaint_jax.data import masks
from glinpaint_jax.data.folders import FolderSource
from glinpaint_jax.data.holes import draw_hole, open_mask_files
from glinpaint_jax.data.mask_files import read_mask
from glinpaint_jax.data.pipeline import FailureLog, MakeExample, eval_batches
from glinpaint_jax.data.sources import HoldOut
from glinpaint_jax.errors import UserError
from tests.helpers.configs import make_small_config
from tests.helpers.sources import Numbered, take


def rng(seed=0):
    return np.random.default_rng(seed)


def draw(count, size=256, **changes):
    generator, config = rng(), MaskConfig(**changes)
    files = open_mask_files(config)
    return [draw_hole(config, size, files, generator) for _ in range(count)]


@pytest.mark.parametrize("square", [False, True])
def test_boxes_stay_within_mmagic_limits(square):
    """256x256, max 128, delta 40, margin 20: top ~ U{20..107} + U{0..20}, height 128 - that."""
    generator, config = rng(), MaskConfig("square" if square else "rectangle")
    drawn = [masks.random_bbox(generator, 256, config) for _ in range(2000)]
    top, left, height, width = np.transpose(drawn)
    for position, side in ((top, height), (left, width)):
        shrunk = 128 - side
        assert set(shrunk) == set(range(21))
        placed = position - shrunk
        assert (placed.min(), placed.max()) == (20, 107)
        assert len(set(placed)) == 88
        assert (position + side <= 256 - 20).all()
    assert (height == width).all() if square else (height != width).mean() > 0.9


def draw_as_lama(rng, times, length, width, boxes=(), sides=(), margin=0):
    """LaMa's masks of 256x256, from the numbers of its configs; a redraw above half the image."""
    mask = np.zeros((256, 256), np.uint8)
    if boxes and rng.random() < 0.3 / 1.3:
        for _ in range(rng.integers(boxes[0], boxes[1] + 1)):
            h, w = rng.integers(sides[0], sides[1] + 1, 2)
            top = rng.integers(margin, 256 - margin - h + 1)
            left = rng.integers(margin, 256 - margin - w + 1)
            mask[top : top + h, left : left + w] = 1
    else:
        for i in range(rng.integers(times[0], times[1] + 2)):
            x, y = rng.integers(256, size=2)
            for _ in range(1 + rng.integers(5)):
                angle = (0.01 + rng.integers(4)) * (-1 if i % 2 == 0 else 1)
                reach = 10 + rng.integers(length)
                end_x = int(np.clip(int(x + reach * np.sin(angle)), 0, 256))
                end_y = int(np.clip(int(y + reach * np.cos(angle)), 0, 256))
                cv2.line(mask, (int(x), int(y)), (end_x, end_y), 1, int(5 + rng.integers(width)))
                x, y = end_x, end_y
    return mask if 0 < mask.mean() <= 0.5 else None


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("thin", ((4, 50), 40, 10)),
        ("medium", ((4, 5), 100, 50, (1, 5), (10, 50))),
        ("thick", ((1, 5), 200, 100, (1, 3), (30, 150), 10)),
    ],
)
def test_thin_to_thick_masks_are_spread_as_lamas(kind, numbers):
    """Their areas, and how far their pixels are from the image's known part."""
    rng = np.random.default_rng(0)
    theirs = [mask for _ in range(600) if (mask := draw_as_lama(rng, *numbers)) is not None]
    ours = [hole["mask"][..., 0] for hole in draw(len(theirs), kind=kind)]

    def quantiles(masks):
        areas = np.quantile([mask.mean() for mask in masks], [0.1, 0.5, 0.9])
        depths = [cv2.distanceTransform(mask, cv2.DIST_L2, 5).max() for mask in masks]
        return np.concatenate([areas, np.quantile(depths, [0.1, 0.5, 0.9]) / 256])

    np.testing.assert_allclose(quantiles(ours), quantiles(theirs), rtol=0.15, atol=0.005)
    (half,) = draw(1, 128, kind=kind)
    assert half["mask"].shape == (128, 128, 1) and 0 < half["mask"].mean() <= 0.5


@pytest.mark.parametrize("kind", ["irregular", "free_form"])
@pytest.mark.parametrize(("size", "low", "high"), [(256, 0.15, 0.5), (64, 0.2, 0.3)])
def test_strokes_stay_within_area_limits(kind, size, low, high):
    holes = [hole["mask"] for hole in draw(100, size, kind=kind, min_area=low, max_area=high)]
    assert {value for hole in holes for value in np.unique(hole)} == {0, 1}
    areas = [hole.mean() for hole in holes]
    assert low <= min(areas) < max(areas) <= high
    assert np.ptp(areas) > 0.5 * (high - low)


def test_impossible_area_limits_raise():
    with pytest.raises(UserError, match="widen them"):
        draw(1, 64, kind="irregular", min_area=0.85, max_area=0.9)


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("square", "7bf82752c4eadf5f"),
        ("rectangle", "6676f2324dd27583"),
        ("irregular", "1664d4adfd73eaf1"),
        ("free_form", "60d7ff4c5474dbf5"),
    ],
)
def test_default_holes_never_change(kind, digest):
    """Or resumed runs would differ from uninterrupted ones. Digests: before strokes had fields."""
    drawn = hashlib.sha256()
    for hole in draw(20, kind=kind):
        for values in hole.values():
            drawn.update(values.tobytes())
    assert drawn.hexdigest()[:16] == digest


@pytest.mark.parametrize("kind", ["square", "rectangle"])
def test_several_holes_are_boxes_drawn_one_after_the_other(kind):
    config = MaskConfig(kind=kind, max_size=40, max_delta=20, max_holes=3)
    generator, counts = rng(), Counter()
    for hole in draw(60, kind=kind, max_size=40, max_delta=20, max_holes=3):
        count = generator.integers(1, 4)
        boxes = [masks.random_bbox(generator, 256, config) for _ in range(count)]
        expected = np.zeros((256, 256, 1), np.uint8)
        for top, left, height, width in boxes:
            expected[top : top + height, left : left + width] = 1
        np.testing.assert_array_equal(hole["mask"], expected)
        np.testing.assert_array_equal(hole["bbox"], boxes[0])
        counts[count] += 1
    assert sorted(counts) == [1, 2, 3]


def write_mask(path, columns=slice(None), size=40):
    pixels = np.zeros((size, size), np.uint8)
    pixels[:, columns] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def test_masks_are_found_in_linked_folders_or_listed(tmp_path):
    """As MMagic's mask_mode='set': a list file and a prefix."""
    folder = tmp_path / "masks"
    write_mask(tmp_path / "more" / "left.png", slice(0, 20))
    write_mask(folder / "right.png", slice(20, 40))
    write_mask(folder / ".trash" / "full.png")
    (folder / "linked").symlink_to(tmp_path / "more")
    (folder / "train_masks.txt").write_text("linked/left.png 1\n\nright.png\n")
    for name in ("", "train_masks.txt", f"{folder}/train_masks.txt"):
        holes = draw(40, 32, kind="files", folder=str(folder), list=name)
        boxes = Counter(tuple(hole["bbox"].tolist()) for hole in holes)
        assert set(boxes) == {(0, 0, 32, 16), (0, 16, 32, 16)}
        assert min(boxes.values()) > 10
        write_mask(folder / "unlisted.png")


def test_lists_and_folders_without_masks_are_rejected(tmp_path):
    (tmp_path / "empty.txt").touch()
    for changes, expected in (
        ({"list": "absent.txt"}, r"no list file .*/absent\.txt or absent\.txt"),
        ({"list": "empty.txt"}, r"no masks in .*, config\.mask\.list='empty\.txt'; put \.jpg"),
        ({}, rf"no masks in config\.mask\.folder={tmp_path}, "),
        ({"folder": f"{tmp_path}/none"}, f"no folder {tmp_path}/none"),
    ):
        with pytest.raises(UserError, match=expected):
            draw(1, **{"kind": "files", "folder": str(tmp_path)} | changes)


def test_lines_survive_shrinking_and_white_under_transparency_is_no_hole(tmp_path):
    """Drawing programs keep the color of what is erased; `complete` reads alpha the same way."""
    pixels = np.full((1024, 1024, 4), 255, np.uint8)
    pixels[..., 3] = cv2.line(np.zeros((1024, 1024), np.uint8), (61, 60), (800, 310), 255, 1)
    cv2.imwrite(str(tmp_path / "mask.png"), pixels)
    (hole,) = draw(1, 256, kind="files", folder=str(tmp_path))
    expected = pixels[..., 3].reshape(256, 4, 256, 4).any(axis=(1, 3))
    np.testing.assert_array_equal(hole["mask"][..., 0], expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), pixels[..., 3] > 0)


def test_masks_that_cannot_be_used_are_replaced_and_named(tmp_path):
    for number in range(20):
        write_mask(tmp_path / f"good{number}.png", slice(0, 20))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(tmp_path / "photo.png"), rng().integers(60, 200, (40, 40), np.uint8))
    (tmp_path / "text.png").write_text("no image")
    config = make_small_config(mask=MaskConfig(kind="files", folder=str(tmp_path)))
    batches, lines = take(Numbered(9), config, 30), []
    assert {tuple(box) for batch in batches for box in batch["bbox"].tolist()} == {(0, 0, 32, 16)}
    log = FailureLog(lines.append)
    for batch in batches:
        log.take(batch)
    lines = [line.removeprefix(f"skipped, {tmp_path}/") for line in sorted(lines)]
    assert len(lines) == 3
    assert lines[0].startswith("black.png has no hole (no white)")
    assert lines[1].startswith("photo.png has wide areas of gray")
    assert lines[2].startswith("text.png is not an image")


@pytest.mark.parametrize("kind", ["files", "paired"])
def test_inverted_masks_are_doubted_once(kind, tmp_path):
    """In the words of `complete`."""
    for name in ("images", "masks"):
        for number in range(10):
            write_mask(tmp_path / name / f"{number}.png", slice(0, 36 if number else 10))
    mask = MaskConfig(kind=kind, folder=str(tmp_path / "masks"))
    config, source = make_small_config(mask=mask), FolderSource(tmp_path / "images")
    with pytest.warns(match=r"masks/1\.png: the hole covers 90% .*; is the mask inverted\?"):
        MakeExample(source, config)
    MakeExample(source, config)  # warnings are errors


def test_mixed_kinds_are_drawn_by_weight(tmp_path):
    """Squares, thin lines and large masks are told apart by their areas."""
    write_mask(tmp_path / "large.png", slice(0, 22))
    limits = {"max_size": 16, "max_delta": 4, "margin": 2, "min_area": 0.3, "max_area": 0.5}
    changes, counts = {"folder": str(tmp_path), "mixed": "square:1,irregular:2,files:5"}, Counter()
    for hole in draw(2000, 32, kind="mixed", **limits, **changes):
        mask, (top, left, height, width) = hole["mask"], hole["bbox"]
        assert mask.shape == (32, 32, 1) and mask.dtype == np.uint8
        assert mask[top : top + height, left : left + width].sum() == mask.sum()
        area = mask.mean()
        counts["files" if area > 0.5 else "square" if area <= 0.25 else "irregular"] += 1
    shares = np.array([counts[kind] for kind in ("square", "irregular", "files")]) / 2000
    np.testing.assert_allclose(shares, np.array([1, 2, 5]) / 8, atol=0.03)


@pytest.fixture
def pairs(tmp_path):
    """Random pink shapes on black and their masks, of different sizes, in subfolders."""
    generator = rng()
    for number in range(12):
        picture = np.zeros(generator.integers(70, 120, 2), np.uint8)
        cv2.circle(picture, (40, 30), 20, 255, -1)
        cv2.line(picture, (0, 0), tuple(generator.integers(30, 70, 2).tolist()), 255, 15)
        pink = np.dstack([picture // 2, 0 * picture, picture])  # BGR
        for name, pixels in (("images/part{}/{}.png", pink), ("masks/part{}/{}.bmp", picture)):
            path = tmp_path / name.format(number % 2, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    return tmp_path


def paired_config(pairs, **data):
    return make_small_config(
        mask=MaskConfig(kind="paired", folder=str(pairs / "masks")),
        data=DataConfig(num_workers=0, eval_images=100, **data),
    )


def assert_masks_match(batches, share=1.0):
    for batch in batches:
        for image, mask, box in zip(batch["image"], batch["mask"], batch["bbox"], strict=True):
            assert ((image[..., :1] > 127) == mask).mean() >= share
            spans = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2))]
            ends = [(span[0], span[-1] - span[0] + 1) for span in spans]
            np.testing.assert_array_equal(box, np.transpose(ends).ravel())


@pytest.mark.parametrize(
    ("data", "share"),
    [
        ({"crop_size": 32}, 1.0),
        ({"crop_size": 64}, 0.94),  # the image is resized bilinearly, the mask is not
        ({"crop_size": 64, "crop": "resize_then_crop"}, 0.94),
    ],
)
def test_paired_masks_are_cropped_and_flipped_with_their_images(data, share, pairs):
    config = paired_config(pairs, horizontal_flip=True, **data)
    source = FolderSource(pairs / "images")
    assert_masks_match(take(source, config, 12), share)
    assert_masks_match(take(HoldOut(source, 2, held_out=False), config, 6), share)
    batches = list(eval_batches(source, config, local_batch_size=5, process=0, count=1))
    assert sum(batch["valid"].sum() for batch in batches) == 12
    assert_masks_match(batches, share)


def test_masks_of_a_part_and_masks_of_another_size(pairs):
    """masks/part0/0.bmp belongs to images/part0/0.png also if part0 is the whole source."""
    config, source = paired_config(pairs, crop_size=32), FolderSource(pairs / "images" / "part0")
    assert_masks_match(take(source, config, 3))
    cv2.imwrite(str(pairs / "masks" / "part0" / "0.bmp"), np.full((5, 9), 255, np.uint8))
    (batch,) = eval_batches(source, config, local_batch_size=6, process=0, count=1)
    assert batch["mask"].all(axis=(1, 2, 3)).sum() == 1


def test_a_pair_that_cannot_be_used_is_replaced_and_named(pairs):
    """A mask that is the photograph, one without a hole, and one whose hole no crop shows."""
    photo = pairs / "images" / "part1" / "1.png"
    (pairs / "masks" / "part1" / "1.bmp").write_bytes(photo.read_bytes())
    cv2.imwrite(str(pairs / "masks" / "part1" / "3.bmp"), np.zeros((5, 9), np.uint8))
    dot = np.zeros((3000, 3000), np.uint8)
    cv2.imwrite(str(pairs / "images" / "dot.png"), dot)
    dot[0, 0] = 255
    cv2.imwrite(str(pairs / "masks" / "dot.png"), dot)
    config, source = paired_config(pairs, crop_size=32), FolderSource(pairs / "images")
    batches = list(eval_batches(source, config, local_batch_size=13, process=0, count=1))
    assert_masks_match(batches)
    lines = []
    FailureLog(lines.append).take(batches[0])
    reasons = {
        "dot.png": "none of 1000 random crops shows its hole",
        "part1/1.bmp": "is the photograph itself",
        "part1/3.bmp": "has no hole",
    }
    for name, reason in reasons.items():
        prefix = f"skipped, {pairs}/masks/{name}"
        assert any(line.startswith(prefix) and reason in line for line in lines), lines


def test_missing_pairs_end_the_run(pairs):
    config, images = paired_config(pairs, crop_size=32), FolderSource(pairs / "images")
    with pytest.raises(UserError, match="needs images from a folder, not image 0"):
        take(Numbered(3), config, 1)
    (pairs / "masks" / "part0" / "0.bmp").unlink()
    with pytest.raises(UserError, match=r"part0/0\.png has no mask .*masks/part0/0\.png"):
        take(images, config, 1)
