"""The numbers are those of the published scaler for RegNetY-4GF and EfficientNet-B0, four times as costly by several strategies."""

import math

import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.complexity import complexity
from jaxvision.models.efficientnet import EfficientNet
from jaxvision.models.registry import create_model, variant_of
from jaxvision.models.regnet import RegNet
from jaxvision.models.scaling import FAST, factors, scale_efficientnet, scale_regnet, scale_side

REGNET = dict(variant_of("regnety_040").settings)
# Depths, widths, group width, side; multiply-adds in G, parameters and activations in M.
REGNET_ROWS = {
    FAST: ((2, 7, 14, 2), (224, 336, 896, 1904), 112, 240, 15.61, 68.14, 26.54),
    "w": ((2, 6, 12, 2), (256, 384, 1024, 2176), 64, 224, 12.25, 69.03, 24.17),
    "wg": ((2, 6, 12, 2), (256, 384, 1024, 2176), 128, 224, 15.73, 80.24, 24.17),
    "d": ((8, 24, 48, 8), (128, 192, 512, 1088), 64, 224, 15.25, 80.92, 39.48),
    "r": ((2, 6, 12, 2), (128, 192, 512, 1088), 64, 448, 15.88, 20.65, 49.11),
    "dwr": ((3, 10, 19, 3), (128, 256, 640, 1344), 64, 284, 14.10, 46.48, 34.37),
    "d1_w1_g1_r1": ((3, 10, 19, 3), (160, 240, 640, 1360), 80, 284, 15.78, 49.39, 35.78),
}
# Depths, widths, stem, head, side; the same three.
EFFICIENTNET_ROWS = {
    FAST: ((1, 2, 2, 3, 3, 5, 1), (24, 40, 72, 136, 192, 336, 560), 56, 2232, 240, 1.38, 15.82, 13.33),
    "dwr": ((2, 3, 3, 5, 5, 6, 2), (24, 32, 48, 104, 144, 240, 400), 40, 1616, 284, 1.70, 13.23, 21.55),
    "w": ((1, 2, 2, 3, 3, 4, 1), (32, 48, 80, 160, 224, 384, 640), 64, 2560, 224, 1.45, 18.12, 13.50),
}


def regnet(strategy, cost=4):
    by = factors(strategy, cost)
    side = scale_side(224, by)
    return RegNet(**scale_regnet(REGNET, by), image_size=(side, side))


def efficientnet(strategy, cost=4):
    by = factors(strategy, cost)
    side = scale_side(224, by)
    return EfficientNet(**scale_efficientnet({}, by), image_size=(side, side))


def counted(model):
    count = complexity(model)
    return count.flops / 1e9, count.parameters / 1e6, count.activations / 1e6


@pytest.mark.parametrize("strategy", REGNET_ROWS)
def test_scaled_regnets_have_the_published_structure(strategy):
    depths, widths, group, side, *_ = REGNET_ROWS[strategy]
    model = regnet(strategy)
    assert (model.depths, model.widths, set(model.group_widths), model.image_size) == (depths, widths, {group}, (side, side))


@pytest.mark.parametrize("strategy", EFFICIENTNET_ROWS)
def test_scaled_efficientnets_have_the_published_structure(strategy):
    depths, widths, stem, head, side, *_ = EFFICIENTNET_ROWS[strategy]
    model = efficientnet(strategy)
    assert (model.depths(), tuple(row[4] for row in model.rows)) == (depths, widths)
    assert (model.stem, model.head, model.image_size) == (stem, head, (side, side))


def test_factors_of_the_fast_and_of_the_uniform_rule():
    np.testing.assert_allclose(factors(FAST, 4), (1.1487, 1.7411, 1.7411, 1.0718), atol=5e-5)
    np.testing.assert_allclose(factors("dwr", 4), (1.5874, 1.2599, 1.0, 1.2599), atol=5e-5)
    assert scale_side(256, factors(FAST, 4)) == 276


def test_costs_of_the_two_published_bases():
    np.testing.assert_allclose(counted(create_model("regnety_040")), (3.973, 20.646656, 12.287), atol=6e-4)
    np.testing.assert_allclose(counted(create_model("efficientnet_b0")), (0.3858, 5.288548, 6.748), atol=6e-4)


def test_costs_after_the_fast_rule_are_the_published_ones():
    np.testing.assert_allclose(counted(create_model("regnety_040_x4_fast")), REGNET_ROWS[FAST][4:], atol=0.006)
    np.testing.assert_allclose(counted(create_model("efficientnet_b0_x4_fast")), EFFICIENTNET_ROWS[FAST][5:], atol=0.006)


def test_variants_keep_the_ratio_of_crop_to_resize():
    variant = variant_of("efficientnet_b0_x4_fast")
    assert variant.image_size == (240, 240) and math.isclose(variant.crop, 240 / 276)


def test_a_misspelled_strategy_is_refused():
    with pytest.raises(ModelError, match="'fast' is not spelled"):
        factors("fast", 4)


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", sorted(set(REGNET_ROWS) - {FAST}))
def test_costs_of_every_strategy_are_the_published_ones(strategy):
    np.testing.assert_allclose(counted(regnet(strategy)), REGNET_ROWS[strategy][4:], atol=0.006)
    if strategy in EFFICIENTNET_ROWS:
        np.testing.assert_allclose(counted(efficientnet(strategy)), EFFICIENTNET_ROWS[strategy][5:], atol=0.006)


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "make, slopes",
    [
        (regnet, {"d": 0.901, "r": 0.999, "dwr": 0.779, "d1_w1_g1_r1": 0.771, FAST: 0.574, "w": 0.493}),
        (efficientnet, {"d": 0.924, "r": 0.999, "dwr": 0.801, FAST: 0.577, "w": 0.498}),
    ],
)
def test_activations_grow_slowest_under_width_and_the_fast_rule(make, slopes):
    costs = (1, 2, 4, 8, 16)
    for strategy, slope in slopes.items():
        activations = [complexity(make(strategy, cost)).activations for cost in costs]
        assert abs(np.polyfit(np.log(costs), np.log(activations), 1)[0] - slope) < 0.005, strategy
