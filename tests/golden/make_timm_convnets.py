"""Writes tests/golden/{family}.npz from timm's convolutional networks: python tests/golden/make_timm_convnets.py [family …].

Needs torch and timm, nothing of this library. Weights are not stored: they follow from the names in the state dict (`fill`, the same rule as in
tests/reference_weights.py), the input from a seed. Kept are the logits and, of each of the last four stage maps, eight channels at equal distances
on at most 32 rows and columns at equal distances.
"""

import dataclasses
import functools
import pathlib
import sys
import zlib

import numpy as np
import timm
import torch
from timm.layers import BatchNormAct2d, StdConv2d, create_conv2d
from timm.models import byobnet, densenet, efficientnet, regnet, resnet, resnetv2, vgg

CHANNELS, SIDE = 8, 32


def fill(name, shape):
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        return z / np.sqrt(np.prod(shape[1:]))
    if len(shape) == 1:
        return 1 + 0.1 * np.abs(z) if name.endswith("var") else 1 + 0.1 * z if name.endswith(("weight", "scale", "gamma")) else 0.1 * z
    return 1 + 0.1 * z


create = functools.partial(timm.create_model, num_classes=10)


def small_resnet(block, **settings):
    return resnet.ResNet(block, (1, 1, 1, 1), num_classes=10, **settings)


def small_resnetv2(**settings):
    return resnetv2.ResNetV2((1, 1, 1, 1), num_classes=10, **settings)


def small_regnet_z(name, widths):
    cfg = byobnet.model_cfgs[name]
    blocks = tuple(dataclasses.replace(block, d=depth, c=width) for block, depth, width in zip(cfg.blocks, (1, 2, 1, 1), widths))
    return byobnet.ByobNet(dataclasses.replace(cfg, blocks=blocks, num_features=40), num_classes=10)


def small_regnet(**settings):
    return regnet.RegNet(regnet.RegNetCfg(depth=6, w0=16, wa=24.0, wm=2.0, se_ratio=0.25, **settings), num_classes=10)


def shallow_inception_v4():
    model = create("inception_v4")
    kept = (0, 1, 2, 3, 4, 5, 6, 10, 11, 18, 19)
    model.features = torch.nn.Sequential(*(model.features[i] for i in kept))
    model.stage_ends = [2, 3, 6, 8, 10]
    return model


def shallow_inception_resnet_v2():
    model = create("inception_resnet_v2")
    for run in ("repeat", "repeat_1", "repeat_2"):
        setattr(model, run, getattr(model, run)[:1])
    return model


FAMILIES = {
    "inception_next": {
        "tiny": ((71, 45), lambda: create("inception_next_tiny", depths=(1, 1, 2, 1), dims=(16, 32, 48, 64))),
        "atto": ((64, 40), lambda: create("inception_next_atto", depths=(1, 1, 1, 1), dims=(16, 32, 48, 64))),
    },
    "resnet": {
        "resnet18": ((65, 49), lambda: create("resnet18")),
        "resnext_d_se": (
            (64, 45),
            lambda: small_resnet(
                resnet.Bottleneck, cardinality=32, base_width=4, stem_width=32, stem_type="deep", avg_down=True, block_args={"attn_layer": "se"}
            ),
        ),
        "resnet10t": ((33, 64), lambda: create("resnet10t")),
    },
    "efficientnet": {
        "efficientnet_b0": ((65, 49), lambda: create("efficientnet_b0")),
        "tf_shallow_b2": (
            (64, 75),
            lambda: efficientnet._gen_efficientnet(
                "tf_efficientnet_b2", channel_multiplier=1.1, depth_multiplier=0.1, bn_eps=1e-3, pad_type="same", num_classes=10
            ),
        ),
    },
    "regnet": {
        "regnety_002": ((65, 49), lambda: create("regnety_002")),
        "z": (
            (64, 75),
            lambda: small_regnet(group_size=8, bottle_ratio=4.0, downsample=None, linear_out=True, num_features=40, act_layer="silu"),
        ),
    },
    "regnet_z": {
        "b16": ((65, 49), lambda: small_regnet_z("regnetz_b16", (16, 32, 32, 48))),
        "d8": ((64, 75), lambda: small_regnet_z("regnetz_d8", (16, 24, 24, 32))),
    },
    "inception_v4": {"shallow": ((75, 107), shallow_inception_v4)},
    "inception_resnet": {"shallow_v2": ((110, 81), shallow_inception_resnet_v2)},
    "resnetv2": {
        "bit": (
            (65, 49),
            lambda: small_resnetv2(channels=(128, 128, 256, 256), stem_type="fixed", conv_layer=functools.partial(StdConv2d, eps=1e-8)),
        ),
        "basic_tiered": (
            (64, 45),
            lambda: small_resnetv2(
                channels=(64, 64, 128, 128),
                basic=True,
                bottle_ratio=1.0,
                stem_type="tiered",
                avg_down=True,
                conv_layer=create_conv2d,
                norm_layer=BatchNormAct2d,
            ),
        ),
    },
    "mobilenet": {
        "mobilenetv1_100h": ((65, 49), lambda: create("mobilenetv1_100h")),
        "mobilenetv2_050": ((64, 75), lambda: create("mobilenetv2_050")),
    },
    "vgg": {
        "sliding": ((257, 225), lambda: vgg.VGG([8, "M", 8, "M", 16, 16, "M", 32, "M", 32, "M"], num_classes=10)),
        "bn": ((65, 99), lambda: vgg.VGG([8, "M", 16, "M", 16, 16, "M", 32, "M", 32, "M"], num_classes=10, norm_layer=torch.nn.BatchNorm2d)),
    },
    "densenet": {
        "small": ((65, 49), lambda: densenet.DenseNet(growth_rate=8, block_config=(2, 3, 2, 2), num_classes=10)),
        "deep": ((64, 75), lambda: densenet.DenseNet(growth_rate=8, block_config=(1, 1, 1, 2), num_classes=10, stem_type="deep")),
    },
}


def run(size, build):
    torch.manual_seed(0)
    model = build().eval()
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = torch.from_numpy(np.asarray(fill(name, value.shape), np.float32))
    model.load_state_dict(state)
    image = np.random.RandomState(0).standard_normal((2, *size, 3)).astype(np.float32)
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(0, 3, 1, 2)
        logits = model(x)
        # Only this class counts its head convolution to the last stage.
        options = {"exclude_final_conv": True} if isinstance(model, byobnet.ByobNet) else {}
        maps = model.forward_intermediates(x, intermediates_only=True, **options)
    out = {"size": np.asarray(size), "logits": logits.numpy()}
    for i, m in enumerate(maps[-4:]):
        rows, columns = (-(-side // SIDE) for side in m.shape[2:])
        out[f"stage{i}"] = m.permute(0, 2, 3, 1)[:, ::rows, ::columns, :: m.shape[1] // CHANNELS][..., :CHANNELS].numpy()
    return out


if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        arrays = {f"{case}/{key}": value for case, spec in FAMILIES[family].items() for key, value in run(*spec).items()}
        path = pathlib.Path(__file__).with_name(f"{family}.npz")
        np.savez_compressed(path, **arrays)
        print(family, path.stat().st_size // 1024, "KB", {k: v.shape for k, v in arrays.items() if v.ndim > 1})
