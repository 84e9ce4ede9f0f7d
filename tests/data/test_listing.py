"""The names of a folder's images, against os.walk and plain lists."""

import os
import pickle

import pytest

from glinpaint_jax.data.listing import EXTENSIONS, Names, found

ODD_NAMES = ["a.jpg", "a b/c.PNG", "a/z.jpg", "a-b/c.jpg", "a.jpg2/x.webp", "é/ü.jpeg", "a/ä.bmp"]


def walked(folder):
    """As it was found before: all names at once, sorted."""
    paths = []
    for parent, _, names in os.walk(folder, followlinks=True):
        prefix = os.path.relpath(parent, folder)
        paths += [os.path.normpath(os.path.join(prefix, name)) for name in names]
    return sorted(path for path in paths if path.lower().endswith(EXTENSIONS))


def test_folders_are_walked_in_the_order_of_whole_paths(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.jpg").touch()
    root = tmp_path / "root"
    for name in [*ODD_NAMES, "a/b/c/d.jpg", "a0/e.jpg", "notes.txt", "A/e.jpg", "a!/e.jpg"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (root / "b.jpg").symlink_to(root / "nowhere")
    (root / os.fsdecode(b"\xe4\xff.jpg")).touch()  # no UTF-8
    names = list(found(root))
    assert names == walked(root)
    assert len(names) == len(ODD_NAMES) + 7
    assert list(Names(names)[i] for i in range(len(names))) == names


@pytest.mark.parametrize("names", [[], [""], ODD_NAMES, ["", "a", "", os.fsdecode(b"\xff")]])
def test_names_come_out_as_they_went_in(names):
    for kept in (Names(iter(names)), pickle.loads(pickle.dumps(Names(iter(names))))):
        assert len(kept) == len(names)
        assert [kept[i] for i in range(len(names))] == names
        with pytest.raises((IndexError, ValueError)):
            kept[len(names)]


@pytest.mark.parametrize(("first", "stop"), [(0, 7), (0, 3), (2, 5), (6, 7), (3, 3)])
def test_a_part_of_the_names_keeps_their_numbers(first, stop):
    part = Names(ODD_NAMES).only(first, stop)
    assert [part[i] for i in range(first, stop)] == ODD_NAMES[first:stop]
    assert len(part) == stop - first


def test_names_take_little_memory_and_parts_less():
    names = Names(f"class/{i:012d}.jpg" for i in range(20_000))
    assert len(pickle.dumps(names)) < 20_000 * (23 + 8) + 1000
    assert len(pickle.dumps(names.only(100, 200))) < 100 * (23 + 8) + 1000
