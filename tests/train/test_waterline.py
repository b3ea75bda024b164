"""Waterlines: bars of a compiled program, rates that bytes allow, fused blocks and plans, and the claims on intensity of arXiv 2404.03617."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.errors import ConfigError
from jaxvision.train import waterline
from jaxvision.train.preflight import hlo
from jaxvision.train.preflight.chips import CHIPS

CHIP = CHIPS["v5e"]


def test_what_is_attainable_is_the_harmonic_mean_of_the_roofline():
    bound = waterline.Bar("bound", CHIP.flops, CHIP.bandwidth * 3)
    free = waterline.Bar("free", CHIP.flops, 1.0)
    copy = waterline.Bar("copy", 0.0, CHIP.bandwidth)
    assert waterline.waterline(CHIP) == pytest.approx(240.5, abs=0.1)
    assert bound.attainable(CHIP) == pytest.approx(CHIP.flops / 3) and free.attainable(CHIP) == CHIP.flops
    assert waterline.attainable((bound, free), CHIP) == pytest.approx(CHIP.flops * 2 / 4)
    assert waterline.attainable((bound, free, copy), CHIP) == pytest.approx(CHIP.flops * 2 / 5)


def test_layers_that_compute_and_move_nothing_are_one_line_of_the_table():
    figures = {"layer": (1e9, 1e6, 1e-4), "norm1": (0.0, 0.0, 1e-6), "norm2": (0.0, 0.0), "copy": (0.0, 1e6)}
    bars = [waterline.Bar(name, *values) for name, values in figures.items()]
    assert [line.split()[0] for line in waterline.table(bars, CHIP).splitlines()] == ["layer", "layer", "copy", "(others)", "whole", "waterline:"]


def test_bars_of_a_compiled_program_have_its_operations_and_its_layers(tmp_path):
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(8, name="second")(nn.relu(nn.Dense(32, name="first")(x)))

    net, x = Net(), jnp.ones((64, 16))
    variables = net.init(jax.random.key(0), x)
    compiled = jax.jit(net.apply).lower(variables, x).compile()
    bars = waterline.bars(hlo.parse(compiled.as_text()), CHIP)
    flops = {bar.name: bar.flops for bar in bars if bar.flops}
    assert flops == {"first": 2 * 64 * 16 * 32, "second": 2 * 64 * 32 * 8}
    text = waterline.table(bars, CHIP)
    assert "first" in text and f"{(64 * 16 * 32 + 64 * 32 * 8) * 2 / 1e9:.2f}" in text
    picture = waterline.draw(bars, CHIP, tmp_path / "waterline.png")
    gaps = waterline.draw_gaps([("net", 0.9, 1e-3, 4e-3)], tmp_path / "gaps.png")
    assert picture.read_bytes()[:4] == gaps.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("channels, enough", [(64, 194), (512, 1389)])
def test_fusing_a_convfirst_block_raises_its_intensity_above_three_where_pixels_outweigh_weights(channels, enough):
    def gain(batch, side):
        block = waterline.Block("convfirst", side, side, channels)
        return block.fused(batch).intensity / waterline.merged("", block.layers(batch)).intensity

    pixels, weights = 32 * 56 * 56, 9 * 8 + 8 * channels
    assert gain(32, 56) == pytest.approx(((4 + 2 * 4) * pixels + weights) / (2 * pixels + weights))
    assert gain(32, 56) > 5
    # (72 + 8 C) / 3 pixels are where three is crossed.
    assert gain(enough, 1) <= 3 < gain(enough + 1, 1)
    assert 1 < gain(1, 7) < 2 if channels == 512 else gain(1, 7) < 3


def test_a_fused_mbconv_needs_more_workspace_and_computes_borders_twice():
    blocks = {kind: waterline.Block(kind, 28, 28, 128) for kind in ("convfirst", "mbconv")}
    plans = {kind: waterline.plan(block, CHIP, 512 * 2**10, 32, slice_width=512) for kind, block in blocks.items()}
    assert plans["convfirst"].flops == blocks["convfirst"].fused(32).flops
    assert plans["mbconv"].flops > 1.05 * blocks["mbconv"].fused(32).flops
    assert plans["mbconv"].workspace > 3 * plans["convfirst"].workspace


def test_a_block_that_fits_nowhere_is_one_clear_line():
    with pytest.raises(ConfigError, match=r"no tile of a mbconv block of 512 channels fits 1024 bytes"):
        waterline.plan(waterline.Block("mbconv", 7, 7, 512), CHIP, 1024, 1)


def test_plans_are_printed_for_the_three_kinds_of_blocks(capsys):
    waterline.main(["--plan=28,28,128", "--batch=32", "--local=0.5"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(waterline.KINDS)
    # Fused, no block takes longer than its layers one by one do.
    for line in lines[1:4]:
        fused, apart = (float(word) for word in line.replace(" us", "").split()[-2:])
        assert fused <= apart
    assert "0.5 MiB on chip" in lines[-1]


def test_a_layer_s_gap_is_the_part_of_its_bar_above_the_predicted_rate():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    # At half and at a quarter of the peak; the second could reach half of it by its bytes.
    waterline._waterline(axes, [waterline.Bar("a", CHIP.flops, 1.0, 2.0), waterline.Bar("b", CHIP.flops, 2 * CHIP.bandwidth, 4.0)], CHIP)
    heights = [round(patch.get_height(), 3) for patch in axes.patches]
    assert heights == [1.0, 0.5, 0.5, 0.25] and [patch.get_alpha() for patch in axes.patches] == [0.3, None] * 2
    assert axes.patches[0].get_facecolor()[:3] != axes.patches[2].get_facecolor()[:3]


def test_networks_are_compared_by_their_gaps(tmp_path, monkeypatch):
    found = {"quick": [waterline.Bar("a", CHIP.flops, 1.0, 2.0)], "slow": [waterline.Bar("a", CHIP.flops, 1.0, 4.0)]}
    monkeypatch.setattr(waterline, "of_model", lambda name, *arguments, **more: (found[name], CHIP))
    waterline.main(["--model=quick:0.8,slow:0.82", f"--out={tmp_path}"])
    rows = (tmp_path / "gaps.txt").read_text().splitlines()
    assert rows[1].split() == ["quick", "0.800", "1000.00", "ms", "2000.00", "ms", "50.0%"] and rows[2].endswith("25.0%")
    assert {path.name for path in tmp_path.glob("*.png")} == {"gaps.png", "waterline_quick.png", "waterline_slow.png"}


@pytest.mark.parametrize(
    "word, message",
    [("--model=a,b", "are compared by their accuracies"), ("--model=a:x", "'x' is no accuracy"), ("--plan=56", "write height,width,channels")],
)
def test_what_cannot_be_read_is_one_line(word, message):
    with pytest.raises(SystemExit, match=message):
        waterline.main([word])
