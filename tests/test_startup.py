"""Ctrl-C in the first seconds of a program, and a program without stderr."""

import os
import sys

import pytest

from tests.helpers.programs import command, execute


@pytest.mark.parametrize("program", [["glinpaint_jax.main"], ["glinpaint_jax", "verify"]], ids=str)
def test_ctrl_c_while_a_program_imports_ends_it_in_one_line(program, tmp_path):
    """Here the first slow import receives the signal."""
    (tmp_path / "absl.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    result = execute(command(*program), PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_no_file_of_a_program_takes_the_number_of_a_closed_stderr():
    code = "from glinpaint_jax import startup; startup.prepare(); import os, sys; "
    code += "print('anything', file=sys.stderr); print(os.readlink('/proc/self/fd/2'))"
    result = execute(["bash", "-c", 'exec "$@" 2>&-', "bash", sys.executable, "-c", code])
    assert result.stdout == f"{os.devnull}\n"
