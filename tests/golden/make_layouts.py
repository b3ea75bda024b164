"""Writes tests/golden/layouts.npz: python tests/golden/make_layouts.py. Files of weights whose names are not timm's.

Needs torch, torchvision and timm, nothing of this library. Weights follow from the names in the published file by `fill`, the same rule as in
tests/reference_weights.py. torchvision's networks run themselves; the releases of PoolFormer, Swin and BiT go through timm's own readers of them.
"""

import functools
import pathlib
import re
import tempfile
import zlib

import numpy as np
import torch
import torchvision.models as tv
from timm.layers import StdConv2d
from timm.models import metaformer, resnetv2, swin_transformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.regnet import BlockParams


def fill(name, shape, last_axis_is_output=False):
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        z = z / np.sqrt(np.prod(shape[:-1] if last_axis_is_output else shape[1:]))
    elif len(shape) == 1:
        z = 1 + 0.1 * np.abs(z) if name.endswith("var") else 1 + 0.1 * z if name.endswith(("weight", "scale", "gamma")) else 0.1 * z
    else:
        z = 1 + 0.1 * z
    return torch.from_numpy(np.asarray(z, np.float32))


def own_names(model):
    state = model.state_dict()
    return {name: fill(name, value.shape) if value.is_floating_point() else value for name, value in state.items()}


def vgg():
    model = tv.VGG(tv.vgg.make_layers([8, "M", 8, "M", 16, 16, "M", 32, "M", 32, "M"]), num_classes=10)
    for place, shape in ((0, (32 * 49, 16)), (3, (16, 16)), (6, (16, 10))):
        model.classifier[place] = torch.nn.Linear(*shape)
    return model


def regnet():
    params = BlockParams([1, 2], [16, 24], [8, 8], [1.0, 1.0], [2, 2], se_ratio=0.25)
    return tv.RegNet(params, num_classes=10)


def efficientnet():
    row = functools.partial(MBConvConfig, width_mult=1.0, depth_mult=1.0)
    widths = (8, 8, 16, 16, 24, 24, 32, 32)
    rows = [row(1 if i == 0 else 2, 3, 1 if i in (0, 4) else 2 if i < 4 else 1, widths[i], widths[i + 1], 2 if i == 1 else 1) for i in range(7)]
    return tv.EfficientNet(rows, dropout=0.0, num_classes=10)


TORCHVISION = {
    "vgg": ((65, 99), vgg),
    "regnet": ((65, 49), regnet),
    "efficientnet": ((65, 49), efficientnet),
    "mobilenet": ((64, 75), lambda: tv.MobileNetV2(num_classes=10, width_mult=0.5)),
    "convnext": ((65, 99), lambda: tv.ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], num_classes=10)),
    "swin": ((64, 32), lambda: tv.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [4, 4], num_classes=10)),
    "vit": ((48, 48), lambda: tv.VisionTransformer(48, 16, 2, 2, 16, 32, num_classes=10)),
}


def poolformer():
    model = metaformer.MetaFormer(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), downsample_norm=None, mlp_act=torch.nn.GELU, mlp_bias=True,
                                  token_mixers=metaformer.Pooling, norm_layers=metaformer.GroupNorm1, layer_scale_init_values=1e-5,
                                  res_scale_init_values=None, use_mlp_head=False, num_classes=10)  # fmt: skip

    def published(name):
        name = re.sub(r"^head\.fc", "head", re.sub(r"^head\.norm", "norm", name)).replace("stem.conv", "patch_embed.proj")
        name = re.sub(r"^stages\.(\d)\.downsample\.conv", lambda m: f"network.{2 * int(m[1]) - 1}.proj", name)
        name = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"network.{2 * int(m[1])}.", name)
        return re.sub(r"layer_scale(\d)\.scale", r"layer_scale_\1", name)

    state = {published(name): fill(published(name), value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(metaformer.checkpoint_filter_fn(state, model))
    return model


def microsoft_swin():
    model = swin_transformer.SwinTransformer(img_size=64, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=10)

    def published(name):
        return re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name.replace("head.fc", "head"))

    state = {published(name): fill(published(name), value.shape) for name, value in model.state_dict().items()}
    missing, left = model.load_state_dict(swin_transformer.checkpoint_filter_fn(state, model), strict=False)
    assert not left and all("relative_position_index" in name or "attn_mask" in name for name in missing), (missing, left)
    return model


def bit():
    conv = functools.partial(StdConv2d, eps=1e-8)
    model = resnetv2.ResNetV2((1, 2, 1, 1), channels=(128, 128, 256, 256), num_classes=10, stem_type="fixed", conv_layer=conv)
    shapes = {"root_block/standardized_conv2d/kernel": model.stem.conv, "head/conv2d/kernel": model.head.fc}
    norms = {"group_norm": model.norm}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            unit = f"block{i + 1}/unit{j + 1:02d}"
            for letter, number in zip("abc", "123"):
                shapes[f"{unit}/{letter}/standardized_conv2d/kernel"] = getattr(block, f"conv{number}")
                norms[f"{unit}/{letter}/group_norm"] = getattr(block, f"norm{number}")
            if block.downsample is not None:
                shapes[f"{unit}/a/proj/standardized_conv2d/kernel"] = block.downsample.conv
    arrays = {f"resnet/{name}": np.transpose(np.empty(layer.weight.shape), (2, 3, 1, 0)).shape for name, layer in shapes.items()}
    arrays |= {f"resnet/{name}/{leaf}": norm.weight.shape for name, norm in norms.items() for leaf in ("gamma", "beta")}
    arrays["resnet/head/conv2d/bias"] = (10,)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        np.savez(f"{folder}/bit.npz", **{name: fill(name, shape, True).numpy() for name, shape in arrays.items()})
        model.load_pretrained(f"{folder}/bit.npz")
    return model


RELEASES = {"poolformer": ((65, 49), poolformer), "microsoft swin": ((64, 64), microsoft_swin), "bit": ((65, 49), bit)}


def run(size, model):
    image = np.random.RandomState(0).standard_normal((2, *size, 3)).astype(np.float32)
    with torch.inference_mode():
        return {"size": np.asarray(size), "logits": model.eval()(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()}


if __name__ == "__main__":
    kept = {}
    for name, (size, build) in TORCHVISION.items():
        model = build()
        model.load_state_dict(own_names(model))
        kept |= {f"torchvision {name}/{key}": value for key, value in run(size, model).items()}
    for name, (size, build) in RELEASES.items():
        kept |= {f"{name}/{key}": value for key, value in run(size, build()).items()}
    np.savez_compressed(pathlib.Path(__file__).parent / "layouts.npz", **kept)
    print({name: value.shape for name, value in kept.items()})
