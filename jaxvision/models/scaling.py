"""Fast and Accurate Model Scaling (Dollar, Singh, Girshick 2021, arXiv 2103.06877).

A network made s times as costly may grow in depth, width or resolution, with about the same accuracy; but activations, which govern the run time,
grow as s under depth and resolution and only as sqrt(s) under width. The fast compound rule therefore gives width 8/10 of log s, depth and
resolution 1/10 each, and lets the group width follow the width: activations grow about as s^0.6.

A strategy is spelled as in the published code: letters among d, w, g, r of equal weight ("dwr"), or weights, "d1_w8_g8_r1" being the fast rule.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxvision.errors import ModelError
from jaxvision.models.efficientnet import VARIANTS as EFFICIENTNETS
from jaxvision.models.efficientnet import EfficientNet
from jaxvision.models.registry import Variant
from jaxvision.models.regnet import VARIANTS as REGNETS
from jaxvision.models.regnet import RegNet, fit
from jaxvision.nn.inverted_residual import round_width

FAST = "d1_w8_g8_r1"


class Factors(NamedTuple):
    """Multipliers of depth, width, group width and resolution."""

    depth: float
    width: float
    group: float
    resolution: float


def factors(strategy: str, cost: float) -> Factors:
    """The multipliers that make a network about `cost` times as costly in multiply-adds. Raises ModelError for a strategy that is misspelled."""
    if re.fullmatch(r"[dwgr]+", strategy):
        weights = {letter: 1.0 for letter in strategy}
    elif re.fullmatch(r"[dwgr]\d+(_[dwgr]\d+)*", strategy):
        weights = {part[0]: float(part[1:]) for part in strategy.split("_")}
    else:
        raise ModelError(f"scaling strategy {strategy!r} is not spelled as letters among d, w, g, r ('dwr') or with weights ('{FAST}')")
    d, w, g, r = (weights.get(letter, 0.0) for letter in "dwgr")
    whole = d + w + r or g / 2 or 1.0
    return Factors(cost ** (d / whole), cost ** (w / whole / 2), cost ** (g / whole / 2), cost ** (r / whole / 2))


def scale_side(side: int, by: Factors) -> int:
    """Pixels of a scaled image side, of the training crop and of the resize at evaluation alike: a multiple of 4."""
    return round(side * by.resolution / 4) * 4


def scale_regnet(settings: Mapping[str, Any], by: Factors) -> dict[str, Any]:
    """Fields of `RegNet` after scaling; stem and head widths stay."""
    model = RegNet(**settings)
    widths = [_multiple_of_8(width * by.width) for width in model.widths]
    fitted = [fit(width, _group_width(group * by.group), model.bottleneck) for width, group in zip(widths, model.group_widths)]
    widths, groups = zip(*fitted)
    return {**settings, "depths": _depths(model.depths, by), "widths": widths, "group_widths": groups}


def scale_efficientnet(settings: Mapping[str, Any], by: Factors) -> dict[str, Any]:
    """Fields of `EfficientNet` after scaling; stem and head widths scale too. The groups of its depthwise convolutions cannot."""
    model = EfficientNet(**settings)
    depths = _depths(model.depths(), by)
    widths = [_multiple_of_8(round_width(row[4] * model.width) * by.width) for row in model.rows]
    rows = tuple((depth, *row[1:4], width) for depth, row, width in zip(depths, model.rows, widths))
    stem, head = round_width(model.stem * model.width), model.head_width()
    ends = {"stem": _multiple_of_8(stem * by.width), "head": _multiple_of_8(head * by.width)}
    return {**settings, "rows": rows, **ends, "width": 1.0, "depth": 1.0}


def _depths(depths: tuple[int, ...], by: Factors) -> tuple[int, ...]:
    return tuple(max(1, round(depth * by.depth)) for depth in depths)


def _multiple_of_8(width: float) -> int:
    return max(1, round(width / 8)) * 8


def _group_width(width: float) -> int:
    whole = max(1, round(width))
    if whole <= 2:
        return whole
    return 4 if whole <= 5 else round(whole / 8) * 8


SCALERS = {RegNet: scale_regnet, EfficientNet: scale_efficientnet}


def scaled(base: Variant, strategy: str, cost: float) -> Variant:
    """A published RegNet or EfficientNet made about `cost` times as costly; `crop` keeps the published ratio of crop to resize."""
    by = factors(strategy, cost)
    side = scale_side(base.image_size[0], by)
    resized = scale_side(round(base.image_size[0] / base.crop), by)
    return Variant(
        base.module, SCALERS[base.module](base.settings, by), (side, side), base.mean, base.std, side / resized, base.interpolation
    )


# The networks of the paper's comparison whose start is public: four times the cost, by each strategy. A depthwise network has no groups to widen.
BASES = {"regnety_040": REGNETS["regnety_040"], "efficientnet_b0": EFFICIENTNETS["efficientnet_b0"]}
STRATEGIES = {"fast": FAST, "uniform": "d1_w1_g1_r1", "dwr": "dwr", "d": "d", "w": "w", "wg": "wg", "r": "r"}
VARIANTS = {
    f"{name}_x4_{kind}": scaled(base, strategy, 4)
    for name, base in BASES.items()
    for kind, strategy in STRATEGIES.items()
    if not (kind == "wg" and base.module is EfficientNet)
}
