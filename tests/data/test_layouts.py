"""Every layout of folders and lists, with the images of both parts counted and named."""

import pytest

from glinpaint_jax.data.datasets import open_sources
from glinpaint_jax.errors import UserError

PLACES = [f"a/abbey/{i:08d}.jpg" for i in range(1, 6)]
PLACES_VAL = [f"Places365_val_{i:08d}.jpg" for i in range(1, 4)]
FACES = [f"{i:06d}.png" for i in range(8)]


def create(root, *paths):
    """Creates empty files; images are not read here."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write_list(path, names):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def open_parts(root, eval_images=100):
    """The names of both parts, relative to the root."""
    train, evaluation = open_sources(f"folder:{root}", "", eval_images)[:2]
    assert list(evaluation) == ["val"]
    return [
        [source.name(i).removeprefix(f"{root}/") for i in range(len(source))]
        for source in (train, evaluation["val"])
    ]


def found(root, eval_source="", eval_images=100):
    return open_sources(f"folder:{root}", eval_source, eval_images)[2]


LAYOUTS = [
    ("data_large", "val_large", "MMagic's Places"),
    ("data_256", "val_256", "Places365 at 256x256"),
    ("train_256", "test_256", "MMagic's CelebA-HQ"),
    ("train", "val", "train/ and val/"),
    ("train", "test", "train/ and test/"),
]


@pytest.mark.parametrize(("train", "val", "name"), LAYOUTS)
def test_two_folders(train, val, name, tmp_path):
    create(tmp_path, *(f"{train}/{path}" for path in PLACES), f"{val}/deep/1.jpg", f"{val}/2.jpg")
    assert open_parts(tmp_path) == [
        [f"{train}/{path}" for path in PLACES],
        [f"{val}/2.jpg", f"{val}/deep/1.jpg"],
    ]
    expected = f"folder:{tmp_path} (layout: {name}): 5 training images; evaluation: val 2"
    assert found(tmp_path) == expected


@pytest.mark.parametrize("lists", ["", "meta"])
@pytest.mark.parametrize("relative_to", ["part", "root"])
@pytest.mark.parametrize(("train", "val", "name"), LAYOUTS)
def test_lists_select_the_images_of_both_parts(train, val, name, relative_to, lists, tmp_path):
    create(tmp_path, *(f"{train}/{path}" for path in PLACES))
    create(tmp_path, *(f"{val}/{path}" for path in PLACES_VAL))
    prefixes = (f"/{train}/", f"{val}/") if relative_to == "root" else ("/", "")
    write_list(tmp_path / lists / "x_train.txt", [f"{prefixes[0]}{path} 0" for path in PLACES[1:]])
    write_list(tmp_path / lists / "x_val.txt", [prefixes[1] + PLACES_VAL[2]])
    write_list(tmp_path / lists / "x_test.txt", ["somewhere/else.jpg"])
    write_list(tmp_path / lists / "favourites.txt", PLACES[:1])
    (tmp_path / lists / "categories_train.txt").write_text("/a/abbey 0\n")
    assert open_parts(tmp_path) == [
        [f"{train}/{path}" for path in PLACES[1:]],
        [f"{val}/{PLACES_VAL[2]}"],
    ]
    prefix = f"{lists}/".lstrip("/")
    files = f"{prefix}x_train.txt, {prefix}x_val.txt"
    unused = f"{prefix}favourites.txt, {prefix}x_test.txt"
    description = f"layout: {name} ({files}); not used: {unused}"
    assert f"({description}): 4 training images; evaluation: val 1" in found(tmp_path)


def test_mmagic_celeba_hq(tmp_path):
    """Lists in the root, names relative to it (configs/_base_/datasets/celeba.py)."""
    create(tmp_path, *(f"train_256/{name}" for name in FACES))
    create(tmp_path, *(f"test_256/{name}" for name in FACES))
    write_list(
        tmp_path / "train_celeba_img_list.txt",
        [f"train_256/{name}" for name in FACES] + [f"test_256/{FACES[0]}"],
    )
    write_list(tmp_path / "val_celeba_img_list.txt", [f"test_256/{name}" for name in FACES[1:]])
    train, val = open_parts(tmp_path)
    assert (len(train), len(val)) == (9, 7)
    assert not set(train) & set(val)
    assert found(tmp_path).endswith(": 9 training images; evaluation: val 7")


@pytest.mark.parametrize("folder", ["", "images/"])
def test_two_lists_in_a_flat_folder(folder, tmp_path):
    create(tmp_path, *(folder + name for name in FACES))
    write_list(tmp_path / "train_celeba_img_list.txt", [folder + name for name in FACES[:5]])
    write_list(tmp_path / "val_celeba_img_list.txt", [folder + name for name in FACES[5:7]])
    assert open_parts(tmp_path) == [
        [folder + name for name in FACES[:5]],
        [folder + name for name in FACES[5:7]],
    ]
    assert "(layout: two lists (train_celeba_img_list.txt, val_" in found(tmp_path)


@pytest.mark.parametrize(("images", "chosen"), [(3, "standard"), (5, "challenge")])
def test_the_list_whose_images_exist_is_chosen(images, chosen, tmp_path):
    """The archive of Places365-Challenge's lists includes the training list of Standard."""
    create(tmp_path, *(f"data_256/{path}" for path in PLACES[:images]), "val_256/1.jpg")
    write_list(tmp_path / "meta/places365_train_challenge.txt", [f"/{path} 0" for path in PLACES])
    write_list(tmp_path / "meta/places365_train_standard.txt", [f"/{x} 0" for x in PLACES[:3]])
    assert len(open_parts(tmp_path)[0]) == images
    assert f"meta/places365_train_{chosen}.txt" in found(tmp_path)


def test_unused_folders_beside_a_layout_are_ignored(tmp_path):
    create(tmp_path, "data_256/1.jpg", "val_256/2.jpg", "test_256/3.jpg", "extra/4.jpg")
    assert open_parts(tmp_path) == [["data_256/1.jpg"], ["val_256/2.jpg"]]


@pytest.mark.parametrize(
    ("paths", "remedy"),
    [
        (["photos/1.jpg", "test/2.jpg"], "folder:{0}/photos with"),
        (["photos/1.jpg", "Testing/2.jpg"], "--config.data.eval_source=folder:{0}/Testing"),
        (["data_256_standard/1.jpg", "val_256/2.jpg"], "folder:{0}/data_256_standard with"),
        (["trainA/1.jpg", "testA/2.jpg"], "folder:{0}/trainA with"),
        (["1.jpg", "validation/2.jpg"], "folder:{0}:LIST with"),
        (["images/1.jpg", "evaluation/2.jpg"], "folder:{0}/images with"),
        (["unpacked/train/1.jpg", "unpacked/test/2.jpg"], "folder:{0}/unpacked/train with"),
    ],
)
def test_validation_and_test_folders_are_not_trained_on(paths, remedy, tmp_path):
    create(tmp_path, *paths)
    with pytest.raises(UserError, match="would be trained on") as error:
        open_sources(f"folder:{tmp_path}", "", 100)
    assert remedy.format(tmp_path) in str(error.value)
    assert str(tmp_path / paths[1]).rpartition("/")[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_that_only_look_like_tests_are_used(tmp_path):
    create(tmp_path, "valley/1.jpg", "testudo/2.jpg", "v/valencia/3.jpg", "masked/4.jpg")
    (tmp_path / "test").mkdir()
    (tmp_path / "notes.txt").write_text("Taken in 2017.\n")
    assert found(tmp_path).startswith(f"folder:{tmp_path} (all images): 4 training images; ")


@pytest.mark.parametrize("name", ["train.txt", "meta/val.txt", "favourites.txt"])
def test_a_list_that_would_be_ignored_is_rejected(name, tmp_path):
    create(tmp_path, *FACES)
    write_list(tmp_path / name, FACES[:2])
    with pytest.raises(UserError, match="would be ignored") as error:
        open_sources(f"folder:{tmp_path}", "", 100)
    if "val" in name:
        remedy = f":LIST with --config.data.eval_source=folder:{tmp_path}:{name}"
    else:
        remedy = f":{name} with --config.data.eval_source"
    assert f"pass folder:{tmp_path}{remedy}, or move" in str(error.value)
    assert len(open_sources(f"folder:{tmp_path}:{name}", "", 100)[0]) == 2


def test_a_validation_list_within_the_training_folder_needs_a_training_list(tmp_path):
    create(tmp_path, *(f"train/{name}" for name in FACES), "val/1.jpg")
    write_list(tmp_path / "val.txt", [f"train/{FACES[0]}"])
    with pytest.raises(UserError, match="add a list of the training images"):
        open_sources(f"folder:{tmp_path}", "", 100)


def test_lists_of_missing_images_are_rejected(tmp_path):
    create(tmp_path, "train_256/1.png", "test_256/2.png")
    write_list(tmp_path / "train_celeba_img_list.txt", ["elsewhere/1.png"])
    with pytest.raises(
        UserError, match=rf"elsewhere/1\.png, .* {tmp_path}/train_256 or {tmp_path}"
    ):
        open_sources(f"folder:{tmp_path}", "", 100)


def test_an_empty_validation_part_is_rejected(tmp_path):
    create(tmp_path, "train/1.png")
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="holds no images in its validation part"):
        open_sources(f"folder:{tmp_path}", "", 100)


def test_eval_source_means_the_validation_part_of_a_layout(tmp_path):
    create(tmp_path, "own/1.jpg", "places/data_large/2.jpg", "places/val_large/3.jpg")
    spec, eval_spec = f"folder:{tmp_path}/own", f"folder:{tmp_path}/places"
    evaluation = open_sources(spec, eval_spec, 100)[1]
    assert evaluation["val"].name(0) == f"{tmp_path}/places/val_large/3.jpg"
    assert found(tmp_path / "own", eval_spec) == (
        f"folder:{tmp_path}/own (all images): 1 training images; evaluation: val 1 from "
        f"folder:{tmp_path}/places (layout: MMagic's Places)"
    )


def test_a_capped_evaluation_is_stated(tmp_path):
    create(tmp_path, "train/1.jpg", *(f"val/{name}" for name in FACES))
    assert found(tmp_path, eval_images=3).endswith("evaluation: val 3 of 8")
    assert found(tmp_path, eval_images=8).endswith("evaluation: val 8")


def test_celebas_list_of_parts_is_not_a_validation_list(tmp_path):
    create(tmp_path, *(f"train/{name}" for name in FACES), "val/000009.png")
    write_list(tmp_path / "list_eval_partition.txt", [f"{name} 0" for name in FACES])
    train, val = open_parts(tmp_path)
    assert (len(train), val) == (len(FACES), ["val/000009.png"])
    assert "not used: list_eval_partition.txt" in found(tmp_path)


@pytest.mark.parametrize(
    ("paths", "folder", "remedy"),
    [
        (["images/1.jpg", "masks/1.jpg"], "masks", "pass folder:{0}/images, "),
        (["train/images/1.jpg", "train/train_mask/1.jpg", "val/2.jpg"], "train/train_mask", ""),
        (["train/1.jpg", "val/Masks_256/2.jpg"], "val/Masks_256", ":LIST"),
    ],
)
def test_folders_of_masks_are_not_used_as_photographs(paths, folder, remedy, tmp_path):
    create(tmp_path, *paths)
    with pytest.raises(UserError, match="seems to hold masks") as error:
        open_sources(f"folder:{tmp_path}", "", 100)
    assert str(error.value).startswith(f"{tmp_path}/{folder} ")
    assert remedy.format(tmp_path) in str(error.value)
    assert f"--config.mask.folder={tmp_path}/{folder}" in str(error.value)


def test_lamas_masks_beside_their_images_are_left_out(tmp_path):
    create(tmp_path, "train/1.jpg", "val/2.png", "val/2_mask.png", "val/2_mask001.png")
    assert open_parts(tmp_path) == [["train/1.jpg"], ["val/2.png"]]
    assert "left out: masks beside their images (2)" in found(tmp_path)
