"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) and v2 (Sandler et al. 2018, 1801.04381).

v1 replaces convolutions by depthwise separable ones; v2 expands, filters depthwise and projects linearly, with residuals between the narrow ends.
Both are tables for the network of models/efficientnet.py, as in timm, whose names these are: a number is the width in hundredths, "h" has a head
convolution, "d" is also deeper. A width below 1 does not narrow the head of v2.
"""

from jaxvision.models.efficientnet import CHECKPOINT as CHECKPOINT
from jaxvision.models.efficientnet import EfficientNet
from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant

SHARED = {"se": 0.0, "activation": "relu6", "widen_head": True}
# Of one stage: blocks, kernel size, stride of the first block, expansion, channels.
V1 = {
    **SHARED,
    "rows": ((1, 3, 1, 1, 64), (2, 3, 2, 1, 128), (2, 3, 2, 1, 256), (6, 3, 2, 1, 512), (2, 3, 2, 1, 1024)),
    "separable_skip": False,
    "separable_activation": True,
}
V2 = {
    **SHARED,
    "rows": (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (3, 3, 2, 6, 32),
        (4, 3, 2, 6, 64),
        (3, 3, 1, 6, 96),
        (3, 3, 2, 6, 160),
        (1, 3, 1, 6, 320),
    ),
}
HALF = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}

VARIANTS = {
    f"mobilenet{name}": Variant(EfficientNet, settings, parameters=parameters, **inputs)
    for name, settings, parameters, inputs in (
        ("v1_100", {**V1, "head": 0}, 4_231_976, HALF),
        ("v1_100h", {**V1, "head": 1024}, 5_282_600, HALF),
        ("v1_125", {**V1, "head": 0, "width": 1.25}, 6_270_840, {**HALF, "crop": 0.9}),
        ("v2_035", {**V2, "width": 0.35}, 1_677_128, {}),
        ("v2_050", {**V2, "width": 0.5}, 1_968_680, {}),
        ("v2_075", {**V2, "width": 0.75}, 2_636_424, {}),
        ("v2_100", V2, 3_504_872, {}),
        ("v2_110d", {**V2, "width": 1.1, "depth": 1.2, "fixed_ends": True}, 4_516_520, {}),
        ("v2_120d", {**V2, "width": 1.2, "depth": 1.4, "fixed_ends": True}, 5_831_144, {}),
        ("v2_140", {**V2, "width": 1.4}, 6_108_776, {}),
    )
}
