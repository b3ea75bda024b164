"""Cycles of the compiler's own code, from its listings."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.train.preflight import hlo, price
from jaxvision.train.preflight.chips import CHIPS
from jaxvision.train.preflight.schedules import listed_cycles, schedule
from tests.train.test_preflight_kernels import LISTING


def test_ops_that_share_code_share_its_listing(tmp_path):
    for name in ("fusion.1", "kernel", "<late-finalization>", "TLP", "fusion.1-71-schedule-analysis"):
        (tmp_path / f"17-{name}-72-final_bundles.txt").write_text(LISTING)
    (tmp_path / "17-TLP-00-deduplication-map.txt").write_text(
        "key:fusion.1\nordinal:1\nequivalent_hlos[size=2]:\n  fusion.1\n  fusion.7\nkey:gone\nordinal:2\nequivalent_hlos[size=1]:\n  gone\n"
    )
    assert listed_cycles(tmp_path) == dict.fromkeys(("fusion.1", "fusion.7", "kernel"), 102.0)


def test_a_listing_takes_the_place_of_the_estimate_and_bytes_stay_the_least():
    text = (
        "HloModule m\n\nENTRY %main (x: f32[1024,1024]) -> f32[1024,1024] {\n  %x = f32[1024,1024]{1,0} parameter(0)\n"
        '  ROOT %c = f32[1024,1024]{1,0} copy(%x), backend_config={"estimated_cycles":"900000"}\n}\n'
    )
    chip, module = CHIPS["v5e"], hlo.parse(text)
    cycles = lambda listed: price.price(module, chip, listed)[0].seconds * chip.clock
    assert cycles(None) == pytest.approx(900000) and cycles({"c": 40000.0}) == pytest.approx(40000)
    assert cycles({"c": 10.0}) == pytest.approx(2 * 2**22 / chip.bandwidth * chip.clock)


@pytest.mark.aot
@pytest.mark.timeout(300)
def test_a_program_is_listed_with_all_its_ops_and_kept(tmp_path):
    function = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=128)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((128, 7, 7, 128), (3, 3, 1, 128))]
    program = jax.export.export(jax.jit(function), platforms=("tpu",))(*shapes)
    found = schedule(program, "v5e:1x1", tmp_path)
    priced = [each for each in price.price(hlo.parse(found.text), CHIPS["v5e"], found.cycles) if each.how == "compiler"]
    assert priced and all(each.op.name in found.cycles for each in priced)
    # The estimate of a depthwise convolution is several times what its code takes.
    assert max(each.op.cycles / found.cycles[each.op.name] for each in priced) > 2
    assert schedule(program, "v5e:1x1", tmp_path) == found and len(list(tmp_path.rglob("*.json"))) == 1
