import json
import runpy
from pathlib import Path

import pytest

from glinpaint_jax.config import Config, differences, from_dict, to_dict
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
        ("mask.fill", (0.0, 0.0, 256.0), "within 0..255"),
        ("mask.fill", (0.0, 0.0), "three values"),
        ("losses.adversarial", -1.0, "at least 0"),
        ("seed", -1, "at least 0"),
        ("seed", 2**32, "at most 4294967295"),
        ("mask.fill", 5.0, "of type tuple"),
        ("data.horizontal_flip", "yes", "of type bool"),
    ],
)
def test_invalid_values_are_rejected_in_one_line(small_config, path, value, expected):
    section, _, name = path.rpartition(".")
    setattr(getattr(small_config, section) if section else small_config, name, value)
    with pytest.raises(UserError) as error:
        small_config.validate()
    message = str(error.value)
    assert f"config.{path}" in message and repr(value) in message and expected in message
    assert f"--config.{path}=" in message and "\n" not in message


def test_masks_from_files_need_a_folder(small_config):
    small_config.mask.kind = "files"
    with pytest.raises(UserError, match=r"mask\.folder"):
        small_config.validate()


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
