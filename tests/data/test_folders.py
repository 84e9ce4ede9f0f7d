"""Which images a folder holds, a list names and a layout has: counted, named and compared."""

import contextlib
import errno
import os
import pickle
import re
from collections import Counter

import cv2
import numpy as np
import pytest

from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.folders import FolderSource, find_images
from glinpaint_jax.errors import UserError

ODD_NAMES = ["a.jpg", "a b/c.PNG", "a/z.jpg", "a-b/c.jpg", "a.jpg2/x.webp", "é/ü.jpeg", "a/ä.bmp"]
NO_UTF8 = os.fsdecode(b"\xe4\xff.jpg")
PLACES = [f"a/abbey/{i:08d}.jpg" for i in range(1, 6)]


def create(root, *paths):
    """Creates empty files; images are not read here."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def names_of(source, root):
    return [source.name(i).removeprefix(f"{root}/") for i in range(len(source))]


def write_list(path, names):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def open_parts(root, spec="folder:{0}", eval_spec=""):
    """The names of both parts, relative to the root."""
    train, evaluation = open_sources(spec.format(root), eval_spec.format(root), 100)[:2]
    assert list(evaluation) == ["val"]
    return [names_of(source, root) for source in (train, evaluation["val"])]


def found(root, eval_source=""):
    return open_sources(f"folder:{root}", eval_source, 100)[2]


@pytest.mark.parametrize(
    ("train", "val", "name"),
    [
        ("data_large", "val_large", "MMagic's Places"),
        ("data_256", "val_256", "Places365 at 256x256"),
        ("train_256", "test_256", "MMagic's CelebA-HQ"),
        ("train", "val", "train/ and val/"),
        ("train", "test", "train/ and test/"),
    ],
)
def test_layouts_are_found_and_lists_only_used_if_named(train, val, name, tmp_path):
    photos = [f"{train}/{path}" for path in PLACES]
    create(tmp_path, *photos, f"{val}/a/1.jpg", f"{val}/2.jpg")
    assert open_parts(tmp_path) == [photos, [f"{val}/2.jpg", f"{val}/a/1.jpg"]]
    expected = f"folder:{tmp_path} (layout: {name}): 5 training images; evaluation: val 2"
    assert found(tmp_path) == expected
    lists = ["meta/places365_train.csv", "meta/val.txt", "x_test.txt"]
    for path in (*lists, "favorites.txt", "._train.txt"):
        write_list(tmp_path / path, [f"/{PLACES[1]} 0"])
    assert len(open_parts(tmp_path)[0]) == 5
    expected = f"{name}; not used: {', '.join(lists)}; to use a list, pass folder:PATH:LIST): 5 "
    assert expected in found(tmp_path)
    spec = f"folder:{{0}}/{train}:../meta/places365_train.csv"
    with pytest.warns(UserWarning, match=r"data.eval_source holds the training images"):
        parts = open_parts(tmp_path, spec, f"folder:{{0}}/{train}:{{0}}/meta/val.txt")
    assert parts == [[photos[1]], [photos[1]]]


def test_unused_folders_and_celebas_list_of_parts_beside_a_layout_are_ignored(tmp_path):
    create(tmp_path, "data_256/1.jpg", "val_256/2.jpg", "test_256/3.jpg", "extra/4.jpg")
    write_list(tmp_path / "list_eval_partition.txt", ["1.jpg 0", "2.jpg 1"])
    assert open_parts(tmp_path) == [["data_256/1.jpg"], ["val_256/2.jpg"]]
    assert "not used: list_eval_partition.txt; to use" in found(tmp_path)


REJECTED = [
    ("photos/1.jpg test/2.jpg", "images in {0}/test would be trained on; pass a folder or list of"),
    ("photos/1.jpg Testing/2.jpg", "--config.data.eval_source=folder:{0}/Testing"),
    ("data_256_standard/1.jpg val_256/2.jpg", "eval_source=folder:{0}/val_256"),
    ("trainA/1.jpg testA/2.jpg", "images in {0}/testA would be trained on; "),
    ("1.jpg validation/2.jpg", "{0}/validation would be trained on; "),
    ("images/1.jpg evaluation/2.jpg", "images in {0}/evaluation would be trained on"),
    ("unpacked/train/1.jpg unpacked/test/val/2.jpg", "eval_source=folder:{0}/unpacked/test$"),
    ("1.jpg train.txt", "train.txt would be ignored; pass lists as folder:{0}:train.txt, "),
    ("1.jpg meta/val.txt", " meta/val.txt would be ignored; pass lists as folder:{0}:meta/val.txt"),
    ("1.jpg Train.lst val.tsv", " Train.lst, val.tsv would be ignored"),
    ("train/1.jpg val/notes.md", "holds no images in its validation part; put .jpg"),
    ("images/1.jpg masks/1.jpg", "{0}/masks seems to hold masks, .* pass a folder or list of"),
    ("train/images/1.jpg train/train_mask/1.jpg val/2.jpg", "{0}/train/train_mask seems to hold"),
    ("train/1.jpg val/Masks/2.jpg", "mask.folder={0}/val/Masks"),
]


@pytest.mark.parametrize(("paths", "expected"), REJECTED, ids=[paths for paths, _ in REJECTED])
def test_what_would_be_misunderstood_is_rejected(paths, expected, tmp_path):
    """Validation images and masks that would be trained on, lists that would be ignored."""
    create(tmp_path, *paths.split())
    with pytest.raises(UserError, match=expected.format(tmp_path)) as error:
        open_sources(f"folder:{tmp_path}", "", 100)
    assert "\n" not in str(error.value)


def test_folders_that_only_look_like_tests_are_used(tmp_path):
    create(tmp_path, "valley/1.jpg", "testudo/2.jpg", "v/valencia/3.jpg", "masked/4.jpg")
    (tmp_path / "test").mkdir()
    (tmp_path / "notes.txt").write_text("Taken in 2017.\n")
    assert found(tmp_path).startswith(f"folder:{tmp_path} (all images): 4 training images; ")


def test_eval_source_means_the_validation_part_of_a_layout(tmp_path):
    create(tmp_path, "own/1.jpg", "places/data_large/2.jpg", "places/val_large/3.jpg")
    spec, eval_spec = f"folder:{tmp_path}/own", f"folder:{tmp_path}/places"
    evaluation = open_sources(spec, eval_spec, 100)[1]
    assert evaluation["val"].name(0) == f"{tmp_path}/places/val_large/3.jpg"
    assert found(tmp_path / "own", eval_spec) == (
        f"folder:{tmp_path}/own (all images): 1 training images; evaluation: val 1 from "
        f"folder:{tmp_path}/places (layout: MMagic's Places)"
    )


def test_images_are_sorted_by_path_and_survive_pickling(tmp_path):
    create(tmp_path / "elsewhere", "linked.jpg")
    root = tmp_path / "root"
    more = ["a/b/c/d.jpg", "a0/e.jpg", "notes.txt", "A/e.jpg", "a!/e.jpg", NO_UTF8]
    create(root, *ODD_NAMES, *more)
    (root / "a" / "link").symlink_to(tmp_path / "elsewhere")
    names = sorted({*ODD_NAMES, *more, "a/link/linked.jpg"} - {"notes.txt"})
    source = FolderSource(root)
    for kept in (source, pickle.loads(pickle.dumps(source))):
        assert names_of(kept, root) == names
        with pytest.raises(IndexError):
            kept.name(len(names))
    assert not source.left_out


def test_only_regular_files_are_listed(tmp_path):
    """A reader of a pipe waits until someone writes to it."""
    create(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    targets = {"c.jpg": "a.jpg", "d.jpg": "b.jpg", "e.jpg": "/nowhere", "f.jpg": "/dev/zero"}
    targets |= {"g": "g", "h.jpg": "h.jpg"}
    for name, target in targets.items():
        (tmp_path / name).symlink_to(target)
    train, _, description = open_sources(f"folder:{tmp_path}", "", 1)
    assert names_of(train, tmp_path) == ["a.jpg", "c.jpg"]
    assert "(all images; left out: images that are not regular files (5)): 2 " in description


def test_a_folder_is_entered_once(tmp_path):
    """Links to the folder itself, to its parent and to a folder beside it that has images."""
    root = tmp_path / "root"
    create(tmp_path, "root/a/1.jpg", "root/b/c/2.jpg", "other/3.jpg")
    links = {"self": ".", "b/up": "..", "b/c/up": "../..", "out": "..", "0": "a", "z": "a"}
    for link, target in links.items():
        (root / link).symlink_to(target)
    names = list(find_images(root, left_out := Counter()))
    assert names == ["0/1.jpg", "b/c/2.jpg", "out/other/3.jpg"]
    assert left_out == {"folders that links reach again": 6}  # a, b/c/up, b/up, out/root, self, z


def test_litter_other_formats_and_masks_are_left_out_and_counted(tmp_path):
    """LaMa's names of masks, beside their images; c has no photograph."""
    photos = ["train/a.jpg", "train/b/scan.tif", "train/b/x.jfif", "train/c_mask.png"]
    create(tmp_path, *photos, "val/2.png", "val/2_mask.png", "val/2_mask001.png")
    create(tmp_path / "train", ".ipynb_checkpoints/a-1.jpg", "b/@eaDir/scan.tif/THUMB_S.jpg")
    create(tmp_path / "train", ".Trash-0/files/old.png", "__MACOSX/._a.jpg", "._a.jpg", ".DS_Store")
    create(tmp_path / "train", "d.gif", "e.HEIC", "n.txt", "a_mask.png", "b/scan_mask001.png")
    assert open_parts(tmp_path) == [photos, ["val/2.png"]]
    for counted in (
        "hidden and system files and folders (5)",
        "images in other formats (2)",
        "masks beside their images (4)",
    ):
        assert counted in found(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    """Root can read every folder, so the system's answer is imitated."""
    create(tmp_path, "a/1.jpg", "b/2.jpg", "lost+found/3.jpg")
    scandir = os.scandir

    def deny(path):
        if str(path).endswith(("b/", "lost+found/")):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(UserError, match=f"cannot read the folder {tmp_path}/b: Permission denied"):
        open_sources(f"folder:{tmp_path}", "", 1)


@pytest.mark.parametrize(
    "text",
    [
        "images/photo 1.jpg\nimages/b.PNG\n",
        "/images/photo 1.jpg 0\n\n/images/b.PNG 17\n",  # Places365
        "images/photo 1.jpg,0\r\nimages/b.PNG,1\r\n",
        '"images/photo 1.jpg";0\n"images/b.PNG";1\n',
        "filename\tlabel\nimages/photo 1.jpg\t1\nimages/b.PNG\t0\n",
        "images\\photo 1.jpg\nimages\\b.PNG\n",
        "{root}/images/photo 1.jpg 3\n{root}/images/b.PNG 4",
    ],
    ids=["spaces", "labels", "comma", "quoted", "tab and header", "backslash", "absolute"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_every_form_are_followed(text, encoding, tmp_path):
    names = ["images/photo 1.jpg", "images/b.PNG"]
    create(tmp_path, *names, "images/c.png", "images/d.png")
    (tmp_path / "train.txt").write_bytes(text.format(root=tmp_path).encode(encoding))
    (tmp_path / "val.txt").write_bytes("images/c.png".encode(encoding))
    parts = open_parts(tmp_path, "folder:{0}:train.txt", "folder:{0}:val.txt")
    assert parts == [names, ["images/c.png"]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"b.PNG\n\nabbey\n", "line 3: 'abbey' does not start with the path of an image"),
        ("b.PNG\nb.PNG".encode("utf-16-le"), "line 2: "),
        (b"D:\\x\\b.PNG\n", "train.txt names D:/x/b.PNG, which is not in {0}; its lines"),
        (b"x" * 300 + b".png\n", "x.png, which is not in {0}; its lines"),  # too long for a file
    ],
)
def test_lists_that_cannot_be_followed_are_named(content, expected, tmp_path):
    create(tmp_path, "b.PNG")
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(expected.format(tmp_path))) as error:
        open_sources(f"folder:{tmp_path}:train.txt", "", 1)
    assert f"{tmp_path}/train.txt" in str(error.value) and "\n" not in str(error.value)


def test_a_list_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "train.txt").symlink_to("/proc/self/mem")  # fails also for root
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/train.txt: Input/output error"):
        open_sources(f"folder:{tmp_path}:train.txt", "", 1)


@pytest.mark.parametrize("name", ["photos_2024:01", "a:b:c"])
def test_a_colon_may_be_part_of_a_folders_name(name, tmp_path):
    create(tmp_path / name, "1.jpg", "2.jpg")
    write_list(tmp_path / "l:1.txt", ["2.jpg"])
    assert len(open_sources(f"folder:{tmp_path}/{name}", "", 1)[0]) == 2
    assert len(open_sources(f"folder:{tmp_path}/{name}:{tmp_path}/l:1.txt", "", 1)[0]) == 1


@pytest.mark.parametrize("brightest", [4095, 4096])
def test_12_bit_values_in_16_bit_files_are_named(brightest, tmp_path):
    for number in range(3):
        pixels = np.full((8, 8, 3), brightest - number, np.uint16)
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    expected = pytest.warns(UserWarning, match=r"nearly black, such as .*0.png: at most 4095 of")
    with expected if brightest < 4096 else contextlib.nullcontext():
        found(tmp_path)
