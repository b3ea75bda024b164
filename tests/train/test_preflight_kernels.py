"""Cycles of hand-written kernels from the listings of their bundles."""

import json

from jaxvision.train.preflight import hlo
from jaxvision.train.preflight.kernels import bundle_cycles, kernels_of

LISTING = """
= control target key start
LB: loop body
= control target key end

     0   :  { %6 = vsyncpa [#allocation4], 0  ;;  %s9_s0 = inlined_call_operand.hbm [shape: f32[8,128], index: 0] }
   0x1 LB: > { %s1 = sadd.s32 1, %s2 }
   0x2   :  {} /* End region 22 */
   0x3 LB: >> { %s3 = smul.u32 900, %s4 }
   0x4   : >> { %p5 = scmp.ge.s32.totalorder %s6, 3 /* loop exit test */ }
   0x5   : > { %s7 = smov.u32 0 }
   0x6   : > { %p8 = scmp.ge.s32.totalorder %s9, 10 /* loop exit test */  ;;  %s5 = smov.u32 0 }
   0x7   :  { %10 = vsyncpa [#allocation4], 1 }
"""


def test_bundles_count_as_often_as_the_loops_around_them():
    # Two outside, four in the outer loop of 10, two in the inner one of 3.
    assert bundle_cycles(LISTING) == 2 + 10 * (4 + 3 * 2)


def test_a_bundle_without_its_marks_ends_no_loop():
    # Scheduled into the inner loop from outside: what follows it is still in the inner loop, and it is run there as often.
    moved = LISTING.replace("   0x4   : >>", "   0x4   : > { %p9 = pneg %p5 }\n   0x5   : >>").replace("   0x6   : >", "   0x7   : >")
    assert bundle_cycles(moved) == 2 + 10 * (4 + 3 * 3)


def test_kernel_is_taken_out_of_its_program_with_its_shapes_and_settings():
    text = (
        "HloModule m\n\nENTRY %main (x: bf16[8,128]) -> f32[8,128] {\n  %x = bf16[8,128]{1,0} parameter(0)\n"
        '  ROOT %k = f32[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="a/{b}"}, backend_config='
        '{"flag_configs":[],"scoped_memory_configs":[SCOPED],"custom_call_config":'
        '{"body":"TUzv","needs_layout_passes":true,"allow_input_fusion":[]}}\n}\n'
    )
    limit = {"memory_space": "1", "offset": "0", "size": "41943040"}  # what it may keep on chip, where it says so
    assert kernels_of(hlo.parse(text.replace("SCOPED", json.dumps(limit))))["k"]["config"]["scoped_memory_configs"] == [limit]
    assert kernels_of(hlo.parse(text.replace("SCOPED", ""))) == {
        "k": {
            "config": {"custom_call_config": {"body": "TUzv", "needs_layout_passes": True}},
            "operands": [["bfloat16", [8, 128]]],
            "results": [["float32", [8, 128]]],
        }
    }
