"""Errors about missing extras."""

import sys

import pytest

from glinpaint_jax import errors


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["pyproject.toml"], "pip install -e '.[hub]'"),
        ([], "pip install 'glinpaint_jax[hub]'"),
    ],
    ids=["checkout", "wheel"],
)
def test_the_advice_fits_how_we_are_installed(files, expected, tmp_path, monkeypatch):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "glinpaint_jax" / "errors.py"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(errors.UserError) as error:
        errors.import_extra("huggingface_hub")
    assert str(error.value).endswith(expected)
