"""Compares the images found in a folder with os.walk; lists of every form."""

import errno
import os
import pickle
import re
from collections import Counter

import pytest

from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.data.listing import EXTENSIONS, find_images
from glinpaint_jax.data.sources import FolderSource
from glinpaint_jax.errors import UserError

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


def test_names_and_parts_pickle_compactly(tmp_path):
    create_files(tmp_path, ["class/000000000000.jpg"])
    names = (f"class/{i:012d}.jpg\n" for i in range(20_000))
    (tmp_path / "list.txt").write_text("".join(names))
    source = FolderSource(tmp_path, tmp_path / "list.txt")
    assert len(pickle.dumps(source)) < 20_000 * (23 + 8) + 1000
    part = source.only(range(100, 200))
    assert len(pickle.dumps(part)) < 100 * (23 + 8) + 1000
    assert (len(part), part.name(99)) == (100, source.name(199))


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


def test_litter_other_formats_and_masks_are_left_out_and_counted(tmp_path):
    """Of 35 files, 4 are photographs."""
    photos = ["a.jpg", "b/scan.tif", "b/x.jfif", "c_mask.png"]  # c has no photograph
    create_files(tmp_path, photos)
    create_files(tmp_path, [".ipynb_checkpoints/a-checkpoint.jpg", "b/@eaDir/scan.tif/THUMB_S.jpg"])
    create_files(tmp_path, [".Trash-0/files/old.png", "__MACOSX/._a.jpg", "._a.jpg", ".DS_Store"])
    create_files(tmp_path, ["d.gif", "e.HEIC", "notes.txt", "a_mask.png", "b/scan_mask001.png"])
    train, _, description = open_sources(f"folder:{tmp_path}", "", 1)
    assert [train.name(i).removeprefix(f"{tmp_path}/") for i in range(len(train))] == photos
    for counted in (
        "hidden and system files and folders (5)",
        "images in other formats (2)",
        "masks beside their images (2)",
    ):
        assert counted in description


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    """Root can read every folder, so the system's answer is imitated."""
    create_files(tmp_path, ["a/1.jpg", "b/2.jpg", "lost+found/3.jpg"])
    scandir = os.scandir

    def deny(path):
        if str(path).endswith(("b/", "lost+found/")):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(UserError, match=f"cannot read the folder {tmp_path}/b: Permission denied"):
        open_sources(f"folder:{tmp_path}", "", 1)


NAMES = ["images/photo 1.jpg", "images/b.PNG"]


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
    create_files(tmp_path, [*NAMES, "images/c.png", "images/d.png"])
    (tmp_path / "train.txt").write_bytes(text.format(root=tmp_path).encode(encoding))
    (tmp_path / "val.txt").write_bytes("images/c.png".encode(encoding))
    train, evaluation, description = open_sources(f"folder:{tmp_path}", "", 1)
    assert [train.name(i) for i in range(len(train))] == [f"{tmp_path}/{name}" for name in NAMES]
    assert evaluation["val"].name(0) == f"{tmp_path}/images/c.png"
    assert "two lists (train.txt, val.txt)" in description


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"images/b.PNG\n\nabbey\n", "line 3: 'abbey' does not start with the path of an image"),
        ("images/b.PNG\nimages/b.PNG".encode("utf-16-le"), "line 2: "),
        (b"D:\\x\\b.PNG\n", "names D:/x/b.PNG, which is not in"),
    ],
)
def test_lists_that_cannot_be_followed_are_named(content, expected, tmp_path):
    create_files(tmp_path, NAMES)
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        open_sources(f"folder:{tmp_path}", "", 1)
    assert f"{tmp_path}/train.txt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["photos_2024:01", "a:b:c"])
def test_a_colon_may_be_part_of_a_folders_name(name, tmp_path):
    create_files(tmp_path / name, ["1.jpg", "2.jpg"])
    (tmp_path / "l:1.txt").write_text("2.jpg\n")
    assert len(open_sources(f"folder:{tmp_path}/{name}", "", 1)[0]) == 2
    assert len(open_sources(f"folder:{tmp_path}/{name}:{tmp_path}/l:1.txt", "", 1)[0]) == 1
