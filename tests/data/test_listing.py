"""Compares the images found in a folder with os.walk."""

import os
import pickle
from collections import Counter

import pytest

from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.listing import EXTENSIONS, find_images
from glinpaint_jax.data.sources import FolderSource

ODD_NAMES = ["a.jpg", "a b/c.PNG", "a/z.jpg", "a-b/c.jpg", "a.jpg2/x.webp", "é/ü.jpeg", "a/ä.bmp"]
NO_UTF8 = os.fsdecode(b"\xe4\xff.jpg")


def create_files(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def walk(folder):
    """Finds all names first, then sorts them."""
    paths = []
    for parent, _, names in os.walk(folder, followlinks=True):
        prefix = os.path.relpath(parent, folder)
        paths += [os.path.normpath(os.path.join(prefix, name)) for name in names]
    return sorted(path for path in paths if path.lower().endswith(EXTENSIONS))


def test_images_are_sorted_by_path(tmp_path):
    create_files(tmp_path / "elsewhere", ["linked.jpg"])
    root = tmp_path / "root"
    more = ["a/b/c/d.jpg", "a0/e.jpg", "notes.txt", "A/e.jpg", "a!/e.jpg", NO_UTF8]
    create_files(root, [*ODD_NAMES, *more])
    (root / "a" / "link").symlink_to(tmp_path / "elsewhere")
    names = list(find_images(root, left_out := Counter()))
    assert names == walk(root)
    assert len(names) == len(ODD_NAMES) + 6
    assert not left_out
    source = FolderSource(root)
    assert [source.name(i) for i in range(len(source))] == [f"{root}/{name}" for name in names]


@pytest.mark.parametrize("names", [[], ["a.jpg"], [*ODD_NAMES, NO_UTF8]])
def test_names_survive_pickling(names, tmp_path):
    create_files(tmp_path, names)
    source = FolderSource(tmp_path)
    for kept in (source, pickle.loads(pickle.dumps(source))):
        assert len(kept) == len(names)
        assert [kept.name(i) for i in range(len(names))] == [
            str(tmp_path / name) for name in sorted(names)
        ]
        with pytest.raises(IndexError):
            kept.name(len(names))


@pytest.mark.parametrize(("first", "stop"), [(0, 7), (0, 3), (2, 5), (6, 7), (3, 3)])
def test_a_part_keeps_its_indices(first, stop, tmp_path):
    create_files(tmp_path, ODD_NAMES)
    source = FolderSource(tmp_path)
    part = source.only(first, stop)
    assert [part.name(i) for i in range(first, stop)] == [
        source.name(i) for i in range(first, stop)
    ]
    assert len(part) == stop - first


def test_names_and_parts_pickle_compactly(tmp_path):
    create_files(tmp_path, ["class/000000000000.jpg"])
    names = (f"class/{i:012d}.jpg\n" for i in range(20_000))
    (tmp_path / "list.txt").write_text("".join(names))
    source = FolderSource(tmp_path, tmp_path / "list.txt")
    assert len(pickle.dumps(source)) < 20_000 * (23 + 8) + 1000
    assert len(pickle.dumps(source.only(100, 200))) < 100 * (23 + 8) + 1000


def test_only_regular_files_are_listed(tmp_path):
    """A reader of a pipe waits until someone writes to it."""
    create_files(tmp_path, ["a.jpg"])
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "e.jpg").symlink_to("/nowhere")
    (tmp_path / "f.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "g.txt")  # looks like a list
    train, _, description = open_sources(f"folder:{tmp_path}", "", 1)
    assert [train.name(i) for i in range(len(train))] == [f"{tmp_path}/{n}.jpg" for n in "ac"]
    assert "(all images; left out: images that are not regular files (4)): 2 " in description


def test_a_folder_is_entered_once(tmp_path):
    """Links to the folder itself, to its parent and to a folder beside it that has images."""
    root = tmp_path / "root"
    create_files(tmp_path, ["root/a/1.jpg", "root/b/c/2.jpg", "other/3.jpg"])
    for link, target in {"self": ".", "b/up": "..", "b/c/up": "../..", "out": ".."}.items():
        (root / link).symlink_to(target)
    for link in ("0", "z"):
        (root / link).symlink_to(root / "a")
    names = list(find_images(root, left_out := Counter()))
    assert names == ["0/1.jpg", "b/c/2.jpg", "out/other/3.jpg"]
    assert left_out == {"folders that links reach again": 6}  # a, b/c/up, b/up, out/root, self, z
    source = f"folder:{root}"
    assert "left out: folders that links reach again (6)" in open_sources(source, "", 1)[2]
