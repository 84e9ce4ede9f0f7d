"""Ctrl-C in the first seconds of a program."""

import pytest

from tests.helpers.programs import command, execute

INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize("program", [["glinpaint_jax.main"], ["glinpaint_jax", "verify"]], ids=str)
def test_ctrl_c_while_a_program_imports_ends_it_in_one_line(program, tmp_path):
    """Here the first slow import receives the signal."""
    (tmp_path / "absl.py").write_text(INTERRUPT)
    result = execute(command(*program), PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (130, "interrupted\n")
