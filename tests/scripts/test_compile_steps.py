"""Reading compiled programs, and what programs for H200s must hold."""

import importlib.util
import re
import subprocess
import sys

import hlo
import pytest

from tests.helpers.programs import ROOT

PROGRAM = """\
HloModule jit_step

%fused_stuff (param_0.1: bf16[2,4,4,8]) -> bf16[2,9,9,8] {
  %param_0.1 = bf16[2,4,4,8]{3,2,1,0} parameter(0)
  %zero = bf16[] constant(0)
  ROOT %pad = bf16[2,9,9,8]{3,2,1,0} pad(%param_0.1, %zero), padding=0_0x1_1_1x1_1_1x0_0
}

ENTRY %main (x: bf16[2,4,4,8], k: bf16[3,4,4,8], y: bf16[2,8,8,8]) -> bf16[3,4,4,8] {
  %x = bf16[2,4,4,8]{3,2,1,0} parameter(0)
  %k = bf16[3,4,4,8]{3,2,1,0} parameter(1)
  %y = bf16[2,8,8,8]{3,2,1,0} parameter(2)
  %stuffed = bf16[2,9,9,8]{3,2,1,0} fusion(%x), kind=kLoop, calls=%fused_stuff
  %bad = (bf16[2,6,6,3]{3,2,1,0}, u8[0]{0}) custom-call(%stuffed, %k), window={size=4x4}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  ROOT %good = (bf16[3,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%y, %x), \
window={size=4x4 stride=2x2}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter", \
metadata={op_name="jit(step)/transpose(jvp(Generator))/decoder/dec3/conv/cond"}
}
"""


def test_a_program_is_read():
    entry = hlo.read_entry(PROGRAM)
    found = {one.name: one for one in entry}
    assert [one.name for one in hlo.misshapen(entry)] == ["bad"]
    assert found["good"].bytes == 2 * (2 * 8 * 8 * 8 + 2 * 4 * 4 * 8 + 3 * 4 * 4 * 8)
    assert found["bad"].flop == 2 * (2 * 6 * 6 * 3) * 4 * 4 * 8  # output pixels x window x inputs
    assert found["good"].flop == 2 * (2 * 4 * 4 * 8) * (3 * 4 * 4 * 8) / 3  # pixels of the gradient
    assert hlo.layer_of(found["good"].source) == "Generator/decoder/dec3/conv, backward"


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="needs 2 GB of packages, which scripts/benchmarks/compile_steps.py names",
)
@pytest.mark.parametrize(("images", "gigabytes"), [(12, 17), (48, 56)])
def test_the_programs_of_h200s_hold_no_misshapen_convolution(images, gigabytes):
    flags = "--chips h200 --phases joint --precisions bfloat16 --images"
    command = [sys.executable, "scripts/benchmarks/compile_steps.py", *flags.split(), str(images)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    summary = re.search(r"([\d.]+) GB, ([\d.]+) TFLOP, .* (\d+) misshapen", result.stdout)
    moved, flop, misshapen = map(float, summary.groups())
    assert misshapen == 0
    assert moved <= gigabytes
    assert flop <= 3.1 * images / 12
