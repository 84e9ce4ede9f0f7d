import pytest

from glinpaint_jax.config import Config, to_dict
from glinpaint_jax.errors import UserError
from glinpaint_jax.saved_config import differences, from_dict
from tests.conftest import make_small_config


def test_differences_name_leaf_fields():
    old, new = make_small_config(), make_small_config(seed=3)
    new.optimizer.learning_rate = 0.5
    assert differences(old, new) == {"seed": (0, 3), "optimizer.learning_rate": (4e-4, 0.5)}
    assert differences(old, old) == {}


def test_configs_saved_before_a_field_existed_get_its_default():
    saved = to_dict(make_small_config(seed=3))
    del saved["ema_decay"], saved["losses"]["tv"]
    assert from_dict(saved) == make_small_config(seed=3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"new": 1}, "new"), ({"model": {"depth": 3}}, r"model\.depth"), ({"model": 3}, "model")],
)
def test_fields_of_another_version_are_named(changes, named):
    with pytest.raises(UserError, match=f"does not know: {named}$"):
        from_dict(to_dict(Config()) | changes)
