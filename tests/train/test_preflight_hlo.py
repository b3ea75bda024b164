"""The reader of compiled HLO, on a program written by hand: small enough to count."""

import pytest

from jaxvision.train.preflight import hlo

ESTIMATE = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
TEXT = f"""HloModule jit_step, is_scheduled=true

FileNames
1 "/home/a/jaxvision/nn/attention.py"
2 "/home/a/env/lib/python3.11/site-packages/flax/linen/linear.py"

FunctionNames
1 "Attention.__call__"
2 "Dense.__call__"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=52 end_line=52 column=1 end_column=9}}
2 {{file_name_id=2 function_name_id=2 line=290 end_line=290 column=1 end_column=9}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=2}}


%fused_product (param_0: bf16[64,128], param_1: bf16[128,256]) -> bf16[64,256] {{
  %param_0 = bf16[64,128]{{1,0:T(8,128)(2,1)}} parameter(0)
  %param_1 = bf16[128,256]{{1,0:T(8,128)(2,1)}} parameter(1)
  ROOT %convolution.1 = bf16[64,256]{{1,0:T(8,128)(2,1)}} convolution(%param_0, %param_1), dim_labels=bf_io->bf
}}

%fused_slice (param_0.1: f32[10,128], param_1.1: s32[]) -> f32[1,128] {{
  %param_0.1 = f32[10,128]{{1,0:T(8,128)}} parameter(0)
  %param_1.1 = s32[]{{:T(128)}} parameter(1)
  %zero = s32[]{{:T(128)}} constant(0)
  ROOT %dynamic-slice.1 = f32[1,128]{{1,0:T(1,128)}} dynamic-slice(%param_0.1, %param_1.1, %zero), dynamic_slice_sizes={{1,128}}
}}

%fused_bound (p: s32[]) -> pred[] {{
  %p = s32[]{{:T(128)}} parameter(0)
  %limit = s32[]{{:T(128)}} constant(5)
  ROOT %lt = pred[]{{:T(512)}} compare(%p, %limit), direction=LT
}}

%body (state: (s32[], f32[10,128])) -> (s32[], f32[10,128]) {{
  %state = (s32[]{{:T(128)}}, f32[10,128]{{1,0:T(8,128)}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%state), index=0
  %rows = f32[10,128]{{1,0:T(8,128)}} get-tuple-element(%state), index=1
  %row = f32[1,128]{{1,0:T(1,128)}} fusion(%rows, %i), kind=kLoop, calls=%fused_slice, {ESTIMATE % 100}
  ROOT %next = (s32[]{{:T(128)}}, f32[10,128]{{1,0:T(8,128)}}) tuple(%i, %rows)
}}

%condition (state.1: (s32[], f32[10,128])) -> pred[] {{
  %state.1 = (s32[]{{:T(128)}}, f32[10,128]{{1,0:T(8,128)}}) parameter(0)
  %i.1 = s32[]{{:T(128)}} get-tuple-element(%state.1), index=0
  ROOT %go = pred[]{{:T(512)}} fusion(%i.1), kind=kLoop, calls=%fused_bound
}}

%cheap (c: f32[10,128]) -> f32[10,128] {{
  %c = f32[10,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %same = f32[10,128]{{1,0:T(8,128)}} copy(%c), {ESTIMATE % 10}
}}

%dear (d: f32[10,128]) -> f32[10,128] {{
  %d = f32[10,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %double = f32[10,128]{{1,0:T(8,128)}} add(%d, %d), {ESTIMATE % 3000}
}}

ENTRY %main (x: bf16[64,128], w: bf16[128,256], rows.1: f32[10,128], n: s32[]) -> bf16[64,256] {{
  %x = bf16[64,128]{{1,0:T(8,128)(2,1)}} parameter(0)
  %w = bf16[128,256]{{1,0:T(8,128)(2,1)S(1)}} parameter(1)
  %rows.1 = f32[10,128]{{1,0:T(8,128)}} parameter(2)
  %n = s32[]{{:T(128)}} parameter(3)
  %product = bf16[64,256]{{1,0:T(8,128)(2,1)}} fusion(%x, %w), kind=kOutput, calls=%fused_product,\
 metadata={{op_name="jit(step)/transpose(jvp(ViT))/ViT._encode/blocks_0/attn/qkv/dot_general" stack_frame_id=2}},\
 {ESTIMATE % 700}
  %start = (s32[]{{:T(128)}}, f32[10,128]{{1,0:T(8,128)}}) tuple(%n, %rows.1)
  %loop = (s32[]{{:T(128)}}, f32[10,128]{{1,0:T(8,128)}}) while(%start), condition=%condition, body=%body
  %rows.2 = f32[10,128]{{1,0:T(8,128)}} get-tuple-element(%loop), index=1
  %either = f32[10,128]{{1,0:T(8,128)}} conditional(%n, %rows.2, %rows.2), branch_computations={{%cheap, %dear}}
  %kernel = bf16[64,256]{{1,0:T(8,128)(2,1)}} custom-call(%product), custom_call_target="tpu_custom_call",\
 backend_config={{"custom_call_config":{{"cost_estimate":{{"flops":"4096","transcendentals":"0","bytes_accessed":"65536"}}}}}}
  ROOT %sum = bf16[64,256]{{1,0:T(8,128)(2,1)}} all-reduce(%kernel), replica_groups=[2,4]<=[8], to_apply=%add
}}
"""


@pytest.fixture(scope="module")
def module():
    return hlo.parse(TEXT)


def test_loop_body_counts_as_often_as_its_condition_allows_and_a_conditional_by_its_dearest_branch(module):
    times = {op.name: count for op, count in hlo.executed(module)}
    assert times["row"] == 5 and times["double"] == 1 and "same" not in times
    assert hlo.cycles(module) == 700 + 5 * 100 + 3000


def test_noted_trip_count_goes_before_the_constant_of_the_condition(module):
    noted = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.cycles(hlo.parse(noted)) == 700 + 7 * 100 + 3000


def test_bytes_leave_out_memory_on_the_chip_and_count_of_a_sliced_operand_the_slice(module):
    main, body = module.computations["main"], module.computations["body"]
    assert hlo.bytes_moved(module, main["product"]) == 2 * (64 * 128 + 64 * 256)
    assert hlo.bytes_moved(module, main["product"], on_chip=True) == 2 * (64 * 128 + 64 * 256 + 128 * 256)
    # The slice read, the scalar index, the slice written.
    assert hlo.bytes_moved(module, body["row"]) == 4 * (128 + 1 + 128)


def test_minor_dimension_is_padded_to_the_tile():
    assert hlo.Shape("f32", (10, 100), (1, 0), (8, 128)).bytes == 4 * 16 * 128
    assert hlo.Shape("f32", (10, 100), (0, 1), (8, 128)).bytes == 4 * 104 * 128
    assert hlo.Shape("bf16", (10, 100)).bytes == 2 * 1000


def test_flops_of_products_and_what_a_kernel_declares(module):
    main = module.computations["main"]
    assert hlo.flops(module, main["product"]) == 2 * 64 * 128 * 256
    assert hlo.flops(module, main["kernel"]) == 4096
    start, end = TEXT.index('custom_call_target="tpu_custom_call"'), TEXT.index("\n  ROOT %sum")
    triton = 'custom_call_target="__gpu$xla.gpu.triton", backend_config={grid_x = 3 : i32, serialized_metadata = "{\\22flops\\22: \\2281920\\22}"}'
    gpu = hlo.parse(TEXT[:start] + triton + TEXT[end:])
    assert hlo.flops(gpu, gpu.computations["main"]["kernel"]) == 81920


@pytest.mark.parametrize(
    ("window", "labels", "shapes", "multiply_adds"),
    [
        ("size=3x3 pad=1_1x1_1", "b01f_01io->b01f", ("2,8,8,4", "3,3,4,16", "2,8,8,16"), 2 * 22 * 22 * 4 * 16),
        # A transposed convolution: three of four elements of the image are holes.
        ("size=2x2 pad=1_1x1_1 lhs_dilate=2x2", "b01f_01io->b01f", ("1,4,4,3", "2,2,3,5", "1,8,8,5"), 8 * 8 * 3 * 5),
        # A batch of 6 matrix products (32, 8) x (8, 16), as a TPU's compiler writes it: the batch is a dilated spatial dimension.
        ("size=6 stride=5 lhs_dilate=6", "0bf_0oi->0bf", ("6,32,8", "6,16,8", "6,32,16"), 6 * 32 * 8 * 16),
    ],
)
def test_multiply_adds_of_a_convolution_are_those_on_elements_of_the_image(window, labels, shapes, multiply_adds):
    left, right, out = (f"f32[{dims}]" for dims in shapes)
    text = (
        f"HloModule m\n\nENTRY %main (x: {left}, w: {right}) -> {out} {{\n"
        f"  %x = {left} parameter(0)\n  %w = {right} parameter(1)\n"
        f"  ROOT %y = {out} convolution(%x, %w), window={{{window}}}, dim_labels={labels}\n}}\n"
    )
    module = hlo.parse(text)
    assert hlo.flops(module, module.computations["main"]["y"]) == 2 * multiply_adds


def test_collectives_with_bytes_and_group(module):
    (found,) = hlo.collectives(module)
    assert (found.kind, found.bytes, found.group, found.times) == ("all-reduce", 2 * 64 * 256, 4, 1)


def test_op_knows_its_layer_its_direction_and_the_line_of_this_package(module):
    product = module.computations["main"]["product"]
    assert (product.layer, product.backward, product.source) == ("ViT/blocks_0/attn/qkv", True, "jaxvision/nn/attention.py:52")


@pytest.mark.parametrize(
    "result, operands, attributes, multiply_adds",
    [
        # 64 x 128 by 128 x 256.
        (
            "bf16[64,256]{1,0}",
            ("bf16[64,128]{1,0}", "bf16[128,256]{1,0}"),
            'custom_call_target="__cublas$gemm", backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}',
            64 * 128 * 256,
        ),
        # A 3x3 convolution of 8 to 16 channels, and its gradients: the same multiply-adds by three calls.
        (
            "f32[2,6,6,16]{3,2,1,0}",
            ("f32[2,6,6,8]{3,2,1,0}", "f32[16,3,3,8]{3,2,1,0}"),
            'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"',
            2 * 36 * 16 * 72,
        ),
        (
            "f32[2,6,6,8]{3,2,1,0}",
            ("f32[2,6,6,16]{3,2,1,0}", "f32[16,3,3,8]{3,2,1,0}"),
            'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"',
            2 * 36 * 16 * 72,
        ),
        (
            "f32[16,3,3,8]{3,2,1,0}",
            ("f32[2,6,6,8]{3,2,1,0}", "f32[2,6,6,16]{3,2,1,0}"),
            'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"',
            2 * 36 * 16 * 72,
        ),
    ],
)
def test_operations_of_what_nvidia_s_libraries_compute(result, operands, attributes, multiply_adds):
    left, right = operands
    text = (
        f"HloModule jit_f\n\nENTRY %main (a: f32[1], b: f32[1]) -> f32[1] {{\n  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n"
        f"  ROOT %call = ({result}, s8[64]{{0}}) custom-call(%a, %b), {attributes}\n}}\n"
    )
    module = hlo.parse(text)
    assert hlo.flops(module, module.computations["main"]["call"]) == 2 * multiply_adds
