import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from glinpaint_jax.config import (
    Config,
    FreeFormConfig,
    IrregularConfig,
    MaskConfig,
    differences,
    from_dict,
    parse_mixed,
    set_value,
    to_dict,
)
from glinpaint_jax.errors import UserError
from tests.helpers.configs import make_small_config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path: Path) -> Config:
    return runpy.run_path(str(path))["get_config"]()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_survive_json(path):
    config = load(path).validate()
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_places_and_celeba_follow_mmagic():
    configs = {path.stem: load(path) for path in CONFIGS}
    places, celeba = configs["places"], configs["celeba_hq"]
    assert (places.num_steps, celeba.num_steps) == (500_002, 300_002)
    assert (places.phases.completion_end, places.phases.discriminator_end) == (90_000, 100_000)
    assert (celeba.phases.completion_end, celeba.phases.discriminator_end) == (40_000, 50_000)
    for config in (places, celeba):
        assert (config.global_batch_size, config.image_size, config.local_size) == (96, 256, 128)
        assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 4e-4)
        assert (config.losses.l1_hole, config.losses.adversarial) == (1.0, 0.001)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("num_steps", 0, "at least 1"),
        ("num_steps", "5", "of type int"),
        ("data.source", 5, "of type str"),
        ("precision", "float16", "one of float32, bfloat16"),
        ("image_size", 30, "a multiple of 4"),
        ("model.width", 5, "even"),
        ("optimizer.name", "sgd", "one of adam, adadelta"),
        ("optimizer.learning_rate", 0.0, "positive"),
        ("optimizer.learning_rate", float("inf"), "finite"),
        ("losses.l1_hole", float("nan"), "finite"),
        ("max_skipped_updates", 0, "at least 1"),
        ("ema_decay", 1.0, "in [0, 1)"),
        ("phases.discriminator_end", 1, "at least phases.completion_end, 2"),
        ("mask.kind", "round", "one of square"),
        ("mask.max_size", 30, "at most image_size - 2 * mask.margin - 1 = 27"),
        ("mask.max_delta", 32, "less than twice mask.max_size"),
        ("model.base", "telea", "one of none, smooth"),
        ("mask.fill", (0.0, 0.0, 256.0), "within 0..255"),
        ("mask.fill", (0.0, 0.0), "three values"),
        ("losses.adversarial", -1.0, "at least 0"),
        ("seed", -1, "at least 0"),
        ("seed", 2**32, "at most 4294967295"),
        ("mask.fill", 5.0, "of type tuple or mean"),
        ("mask.fill", "average", "of type tuple or mean"),
        ("mask.max_holes", 0, "at least 1"),
        ("mask.irregular.lines", (3, 2), "least,most: two of type int, at least 1"),
        ("mask.irregular.lines", (0, 2), "at least 1"),
        ("mask.irregular.width", (1.5, 2.0), "two of type int"),
        ("mask.free_form.width", (1.0, float("inf")), "two of type float"),
        ("mask.free_form.strokes", (1, 2, 3), "two of type int"),
        ("mask.free_form.strokes", 3, "of type tuple"),
        ("data.horizontal_flip", "yes", "of type bool"),
    ],
)
def test_invalid_values_are_rejected_in_one_line(small_config, path, value, expected):
    set_value(small_config, path, value)
    with pytest.raises(UserError) as error:
        small_config.validate()
    message = str(error.value)
    assert f"config.{path}" in message and repr(value) in message and expected in message
    assert f"--config.{path}=" in message and "\n" not in message


@pytest.mark.parametrize("kind", ["files", "paired"])
def test_masks_from_files_need_a_folder(kind, small_config):
    small_config.mask.kind = kind
    with pytest.raises(UserError, match=r"mask\.folder"):
        small_config.validate()


@pytest.mark.parametrize(
    "mixed",
    [
        "",
        "square:0.5,round:0.5",
        "square:-1",
        "square:x",
        "square,square",
        "paired",
        "mixed",
        "files:inf",
    ],
)
def test_mixed_masks_need_kinds_and_weights(mixed, small_config):
    small_config.mask.kind, small_config.mask.mixed = "mixed", mixed
    with pytest.raises(UserError, match=r"mask\.mixed .*, must be different kinds of square, "):
        small_config.validate()


def test_the_kinds_of_mixed_masks_are_checked(small_config):
    small_config.mask.kind, small_config.mask.mixed = "mixed", "square:2,irregular"
    assert parse_mixed(small_config.validate().mask.mixed) == {"square": 2, "irregular": 1}
    for path, value in (("mask.max_size", 30), ("mask.min_area", 0.8)):
        config = make_small_config(mask=dataclasses.replace(small_config.mask))
        set_value(config, path, value)
        with pytest.raises(UserError, match=path):
            config.validate()
    small_config.mask.mixed = "square,files"
    with pytest.raises(UserError, match=r"mask\.folder"):
        small_config.validate()


def test_masks_of_every_setting_survive_json(small_config):
    small_config.mask = MaskConfig(
        kind="mixed",
        mixed="irregular,free_form",
        fill="mean",
        irregular=IrregularConfig(lines=(1, 2)),
        free_form=FreeFormConfig(width=(1.0, 2.5)),
    )
    saved = json.loads(json.dumps(to_dict(small_config.validate())))
    assert from_dict(saved) == small_config


def test_differences_name_leaf_fields():
    old, new = make_small_config(), make_small_config(seed=3)
    new.optimizer.learning_rate = 0.5
    assert differences(old, new) == {"seed": (0, 3), "optimizer.learning_rate": (4e-4, 0.5)}
    assert differences(old, old) == {}


def test_missing_fields_of_saved_configs_get_defaults():
    saved = to_dict(make_small_config(seed=3))
    del saved["ema_decay"], saved["losses"]["tv"]
    assert from_dict(saved) == make_small_config(seed=3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"new": 1}, "new"), ({"model": {"depth": 3}}, r"model\.depth"), ({"model": 3}, "model")],
)
def test_unknown_fields_of_saved_configs_are_rejected(changes, named):
    with pytest.raises(UserError, match=f"does not know: {named}$"):
        from_dict(to_dict(Config()) | changes)


def test_fields_of_earlier_versions_are_ignored():
    saved = to_dict(Config(seed=3)) | {"gradient_dtype": "float32", "batch_norm_devices": 0}
    assert from_dict(saved) == Config(seed=3)
