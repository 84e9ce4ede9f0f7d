"""Compares the images found in a folder with os.walk."""

import os
import pickle

import pytest

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
    (root / "b.jpg").symlink_to(root / "nowhere")
    names = list(find_images(root))
    assert names == walk(root)
    assert len(names) == len(ODD_NAMES) + 7
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
