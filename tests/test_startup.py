"""Ctrl-C in the first seconds of a program."""

import sys

import pytest

from tests.helpers.programs import command, execute

INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize("program", [["glinpaint_jax.main"], ["glinpaint_jax", "verify"]], ids=str)
def test_ctrl_c_while_a_program_imports_ends_it_in_one_line(program, tmp_path):
    """Here the first slow import receives the signal, and drops the exception."""
    (tmp_path / "absl.py").write_text(f"try: {INTERRUPT}\nexcept BaseException: pass\n")
    result = execute(command(*program), PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("code", "status", "written"),
    [
        (f"try: {INTERRUPT}\nexcept KeyboardInterrupt: sys.exit(7)", 7, ""),
        (f"try: {INTERRUPT}\nexcept KeyboardInterrupt: {INTERRUPT}", 130, "interrupted\n"),
        (f"class A:\n def __del__(self): {INTERRUPT}\nA()", 130, "interrupted\n"),
    ],
    ids=["it can be caught", "twice", "in a callback"],
)
def test_ctrl_c_is_never_lost(code, status, written):
    start = "import sys; from glinpaint_jax import startup; startup.prepare()\n"
    result = execute([sys.executable, "-c", start + code])
    assert (result.returncode, result.stderr) == (status, written)
