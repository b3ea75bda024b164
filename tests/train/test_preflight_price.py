"""Prices of ops, on a program written by hand."""

import pytest

from jaxvision.train.preflight import hlo, price
from jaxvision.train.preflight.chips import CHIPS

V5E = CHIPS["v5e"]
TEXT = """HloModule jit_step

ENTRY %main (x: f32[1024,1024], i: s32[4096,1]) -> f32[1024,1024] {
  %x = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %i = s32[4096,1]{1,0:T(8,128)} parameter(1)
  %warped = f32[1024,1024]{1,0:T(8,128)} negate(%x),\
 metadata={op_name="jit(step)/prepare/vmap()/neg"},\
 backend_config={"window_config":{"estimated_cycles":"1500000"}}
  %mixed = f32[1024,1024]{1,0:T(8,128)} dot(%warped, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0},\
 metadata={op_name="jit(step)/ViT/fc1/dot_general"},\
 backend_config={"window_config":{"estimated_cycles":"3000000"}}
  %rows = f32[4096,128]{1,0:T(8,128)S(1)} gather(%x, %i),\
 offset_dims={1}, collapsed_slice_dims={0}, start_index_map={0}, index_vector_dim=1, slice_sizes={1,128}
  %kernel = f32[1024,1024]{1,0:T(8,128)} custom-call(%mixed), custom_call_target="tpu_custom_call"
  %summed = f32[1024,1024]{1,0:T(8,128)} all-reduce(%kernel), replica_groups={{0,1,2,3}}, to_apply=%add
  %copied = (f32[1024,1024]{1,0:T(8,128)S(1)}, f32[1024,1024]{1,0:T(8,128)}, u32[]) copy-start(%summed)
  ROOT %odd = f32[1024,1024]{1,0:T(8,128)} custom-call(%summed), custom_call_target="Unheard"
}
"""
MATRIX = 4 * 1024 * 1024


@pytest.fixture(scope="module")
def priced():
    return {each.op.name: each for each in price.price(hlo.parse(TEXT), V5E)}


def test_estimated_ops_take_their_cycles_over_the_clock(priced):
    assert (priced["warped"].how, priced["warped"].seconds) == ("compiler", 1e-3)
    assert (priced["mixed"].seconds, priced["mixed"].flops) == (2e-3, 2 * 1024**3)


def test_kernel_is_priced_by_its_bytes_its_declared_operations_or_its_bundles_whichever_take_longest(priced):
    assert priced["kernel"].how == "hand"
    assert priced["kernel"].seconds == pytest.approx(2 * MATRIX / V5E.bandwidth)
    declared = TEXT.replace('target="tpu_custom_call"', 'target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"197000000000"}}')
    again = {each.op.name: each for each in price.price(hlo.parse(declared), V5E)}
    assert again["kernel"].seconds == pytest.approx(1e-3)
    bundles = {each.op.name: each for each in price.price(hlo.parse(TEXT), V5E, {"kernel": 4.5e6})}
    assert bundles["kernel"].seconds == pytest.approx(3e-3)


def test_gather_takes_cycles_a_slice(priced):
    assert (priced["rows"].how, priced["rows"].seconds) == ("hand", pytest.approx(4096 * (4 + 2) / V5E.clock))


def test_all_reduce_sends_twice_its_bytes_round_the_ring(priced):
    assert (priced["summed"].how, priced["summed"].seconds) == ("link", pytest.approx(2 * 3 / 4 * MATRIX / V5E.link))


def test_copy_beside_other_work_and_unknown_calls_add_no_time(priced):
    assert (priced["copied"].how, priced["copied"].seconds, priced["copied"].bytes) == ("beside", 0.0, MATRIX)
    assert (priced["odd"].how, priced["odd"].bytes) == ("none", 2 * MATRIX)


def test_share_of_peak_leaves_augmentation_out_and_is_not_quoted_when_much_has_no_price():
    without = TEXT.replace('"Unheard"', '"AllocateBuffer"')
    priced = price.price(hlo.parse(without), V5E)
    sums = price.total(priced, V5E)
    assert sums.augmentation_seconds == 1e-3
    assert sums.unpriced_share == 0
    ideal = 2 * 1024**3 / V5E.flops
    assert sums.share_of_peak(V5E, augmentation=True) == pytest.approx(ideal / sums.seconds)
    assert sums.share_of_peak(V5E, augmentation=False) == pytest.approx(ideal / (sums.seconds - 1e-3))
    unpriced = price.total(price.price(hlo.parse(TEXT), V5E), V5E)
    assert unpriced.unpriced_share > price.UNPRICED_LIMIT
    assert unpriced.share_of_peak(V5E, augmentation=True) is None


def test_step_takes_at_least_its_bytes_over_the_memorys_rate():
    quick = TEXT.replace("3000000", "3").replace("1500000", "3")
    sums = price.total(price.price(hlo.parse(quick), CHIPS["v6e"]), CHIPS["v6e"])
    # Without collectives the ops' own prices are less than their bytes take.
    alone = "\n".join(each for each in quick.splitlines() if "all-reduce" not in each)
    alone = alone.replace("%summed", "%kernel").replace("gather(%x, %i)", "negate(%x)")
    bound = price.total(price.price(hlo.parse(alone), V5E), V5E)
    assert not sums.memory_bound and bound.memory_bound
    assert bound.seconds == pytest.approx(bound.bytes / V5E.bandwidth)


def test_loop_of_unknown_length_counts_once_and_is_listed_without_a_price():
    loop = TEXT.replace("  ROOT %odd", "  %again = f32[1024,1024]{1,0:T(8,128)} while(%x), condition=%until, body=%once\n  ROOT %odd") + (
        "\n%until (p: f32[1024,1024]) -> pred[] {\n  ROOT %p = pred[] parameter(0)\n}\n"
        "\n%once (q: f32[1024,1024]) -> f32[1024,1024] {\n  %q = f32[1024,1024]{1,0:T(8,128)} parameter(0)\n"
        "  ROOT %r = f32[1024,1024]{1,0:T(8,128)} negate(%q)\n}\n"
    )
    priced = {each.op.name: each for each in price.price(hlo.parse(loop), V5E)}
    assert (priced["again"].how, priced["again"].bytes, priced["again"].seconds) == ("none", 2 * MATRIX, 0.0)
    assert priced["r"].seconds == pytest.approx(2 * MATRIX / V5E.bandwidth)


def test_layers_add_up_the_blocks_of_a_stage_and_keep_directions_apart():
    paths = ("jvp(ViT)/blocks_0/fc1/add", "jvp(ViT)/blocks_11/fc1/mul", "transpose(jvp(ViT))/blocks_11/fc1/mul", "jvp(ViT)/stem_0/mul")
    line = '  %warped{0} = f32[1024,1024]{{1,0:T(8,128)}} negate(%x), metadata={{op_name="jit(step)/{1}"}}, {2}\n'
    estimate = 'backend_config={"window_config":{"estimated_cycles":"1500000"}}'
    ops = "".join(line.format(number, path, estimate) for number, path in enumerate(paths))
    layers = price.by_layer(price.price(hlo.parse(TEXT.replace("  ROOT %odd", ops + "  ROOT %odd")), V5E))
    seconds = {layer.name: (layer.ops, layer.seconds) for layer in layers}
    assert seconds["ViT/blocks_*/fc1"] == (2, pytest.approx(2e-3)) and seconds["ViT/blocks_*/fc1 (backward)"] == (1, pytest.approx(1e-3))
    assert seconds["ViT/stem_0"] == (1, pytest.approx(1e-3)) and "(all-reduce)" in seconds
    assert [layer.seconds for layer in layers] == sorted((layer.seconds for layer in layers), reverse=True)
