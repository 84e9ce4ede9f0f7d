import dataclasses
import json
import re
import runpy
from pathlib import Path

import pytest

from glinpaint_jax.config import Config, from_dict, set_value, to_dict
from glinpaint_jax.errors import UserError

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
        ("num_steps", 0, "1 to 2147483647"),
        ("num_steps", 2**31, "1 to 2147483647"),
        ("losses.tv", 10**400, "of type float, at least 0"),
        ("losses.tv", float("nan"), "of type float, at least 0"),
        ("precision", "float16", "one of float32, bfloat16"),
        ("image_size", 30, "a multiple of 4"),
        ("model.width", 5, "even"),
        ("optimizer.learning_rate", 0.0, "positive"),
        ("ema_decay", 1.0, "below 1"),
        ("phases.discriminator_end", 1, "at least phases.completion_end, 2"),
        ("mask.max_size", 30, "at most image_size - 2 * mask.margin - 1 = 27"),
        ("mask.max_delta", 32, "less than twice mask.max_size"),
        ("mask.fill", (0.0, 0.0, 256.0), "3 numbers such as 127.5,127.5,127.5, 0 to 255"),
        ("seed", 2**32, "0 to 4294967295"),
        ("model.width", 1e9, "of type int, 2 to 1024"),
        ("mask.irregular.lines", (3, 2), "a range such as 4,8, at least 1"),
        ("data.horizontal_flip", "yes", "of type bool"),
    ],
)
def test_invalid_values_are_rejected_in_one_line(small_config, path, value, expected):
    """In a config file, on the command line (cli.load_config) and in saved configs alike."""
    set_value(small_config, path, value)
    with pytest.raises(UserError) as error:
        small_config.validate()
    message = str(error.value)
    with pytest.raises(UserError, match=re.escape(message)):
        from_dict(dataclasses.asdict(small_config)).validate()
    assert f"config.{path}" in message and repr(value) in message and expected in message
    assert f"--config.{path}=" in message and "\n" not in message


def test_a_log_that_is_named_twice_is_one_log():
    assert Config(log_to="wandb, tensorboard,wandb").validate().logs == ["wandb", "tensorboard"]


MIXED = r"mask\.mixed .*, must be different kinds of square, "


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "files"}, r"mask\.folder"),
        ({"kind": "paired"}, r"mask\.folder"),
        ({"kind": "free_form", "max_area": 0.95}, r"mask\.max_area .* \+ 0.05, 0.2, to 0.9"),
        *(
            ({"kind": "mixed", "mixed": mixed}, MIXED)
            for mixed in ("", "square:0.5,round:0.5", "square:-1", "square:x", "square,square")
        ),
        *(({"kind": "mixed", "mixed": mixed}, MIXED) for mixed in ("paired", "mixed", "files:inf")),
        ({"kind": "mixed", "mixed": "square,irregular", "max_size": 30}, r"mask\.max_size"),
        ({"kind": "mixed", "mixed": "square,irregular", "min_area": 0.8}, r"mask\.min_area"),
        ({"kind": "mixed", "mixed": "square,files"}, r"mask\.folder"),
    ],
    ids=str,
)
def test_each_kind_of_mask_is_checked(changes, expected, small_config):
    mask = dataclasses.replace(small_config.mask, **changes)
    with pytest.raises(UserError, match=expected):
        dataclasses.replace(small_config, mask=mask).validate()


def test_saved_configs_of_other_versions_are_read():
    """Missing fields get defaults; removed ones are ignored."""
    saved = to_dict(Config(seed=3)) | {"gradient_dtype": "float32", "batch_norm_devices": 0}
    del saved["ema_decay"], saved["losses"]["tv"]
    assert from_dict(saved) == Config(seed=3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"new": 1}, "new"), ({"model": {"depth": 3}}, r"model\.depth"), ({"model": 3}, "model")],
)
def test_unknown_fields_of_saved_configs_are_rejected(changes, named):
    with pytest.raises(UserError, match=f"does not know: {named}$"):
        from_dict(to_dict(Config()) | changes)
