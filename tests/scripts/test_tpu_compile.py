"""Reads a compiled program as the compiler prints it, shortened."""

from scripts.benchmarks.tpu_compile import is_move, layer_of, read_entry, reduction_depth

PROGRAM = """HloModule jit_completion_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  ROOT %p = f32[8]{0} parameter(0), backend_config={"estimated_cycles":"7"}
}

ENTRY %main.1 (image: u8[12,256,256,3]) -> f32[64] {
  %image = u8[12,256,256,3]{0,3,2,1:T(4,128)} parameter(0)
  %fusion.1 = (f32[64]{0:T(128)S(1)}, bf16[12,64]{1,0}) fusion(%image, /*index=1*/%x), kind=kOutput, metadata={op_name="jit(completion_step)/jvp(Generator)/encoder/enc1/conv/cond/branch_0_fun/conv_general_dilated" stack_frame_id=12}, backend_config={"estimated_cycles":"1500000"}
  %all-reduce.1 = f32[64]{0} all-reduce(%fusion.1), channel_id=2, to_apply=%add, metadata={op_name="jit(completion_step)/jvp(Generator)/encoder/enc1/bn/reduce_sum"}
  %all-reduce.2 = f32[64]{0} all-reduce(%image), channel_id=3, to_apply=%add
  %copy.1 = f32[64]{0} copy(%all-reduce.1), metadata={op_name="jit(completion_step)/transpose(jvp(Generator))/decoder/dec7/transpose"}, backend_config={"estimated_cycles":"300000"}
  ROOT %all-reduce.3 = f32[64]{0} all-reduce(%copy.1, %all-reduce.2), channel_id=4, to_apply=%add
}
"""  # noqa: E501


def test_reads_the_entry_computation():
    instructions = {one.name: one for one in read_entry(PROGRAM)}
    assert list(instructions) == [
        "image",
        "fusion.1",
        "all-reduce.1",
        "all-reduce.2",
        "copy.1",
        "all-reduce.3",
    ]
    fusion, copy = instructions["fusion.1"], instructions["copy.1"]
    assert (fusion.opcode, fusion.cycles, fusion.operands) == ("fusion", 1_500_000, ("image", "x"))
    assert (is_move(fusion), is_move(copy)) == (False, True)
    assert layer_of(fusion.source) == "Generator/encoder/enc1/conv, forward"
    assert layer_of(copy.source) == "Generator/decoder/dec7, backward"
    assert sum(one.cycles for one in instructions.values()) == 1_800_000


def test_counts_reductions_that_wait_for_one_another():
    assert reduction_depth(read_entry(PROGRAM)) == 2
