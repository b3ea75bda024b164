"""Writes tests/golden/openmmlab.npz, what OpenMMLab's classifiers compute and their arrays are called: python tests/golden/make_openmmlab.py.

Needs torch, mmengine, mmcv-lite and mmpretrain, nothing of this library. Weights follow from the names by `fill`, as in make_layouts.py.
"""

import pathlib
import zlib

import numpy as np
import torch
from mmpretrain.registry import MODELS
from mmpretrain.utils import register_all_modules


def fill(name, shape):
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        z = z / np.sqrt(np.prod(shape[1:]))
    elif len(shape) == 1:
        z = 1 + 0.1 * np.abs(z) if name.endswith("var") else 1 + 0.1 * z if name.endswith(("weight", "scale", "gamma")) else 0.1 * z
    return torch.from_numpy(np.asarray(z, np.float32))


GAP = {"type": "GlobalAveragePooling"}


def linear(width):
    return {"type": "LinearClsHead", "num_classes": 10, "in_channels": width}


VIT = {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 64}
MIXER = {"embed_dims": 16, "num_layers": 2, "tokens_mlp_dims": 8, "channels_mlp_dims": 64}
FILTERS = [{"type": "DW", "kernel_size": 7}, {"type": "DW", "kernel_size": 7}, {"type": "GF", "h": 4, "w": 3}, {"type": "GF", "h": 2, "w": 2}]
HORNET = {"base_dim": 8, "depths": [1, 1, 1, 1], "orders": [2, 2, 3, 3], "dw_cfg": FILTERS}
CASES = {
    "resnet": (64, {"type": "ResNet", "depth": 18, "base_channels": 8}, GAP, linear(64)),
    "resnet_d": (64, {"type": "ResNetV1d", "depth": 18, "base_channels": 8}, GAP, linear(64)),
    "swin": (
        32,
        {"type": "SwinTransformer", "arch": {"embed_dims": 8, "depths": [2, 2], "num_heads": [1, 2]}, "img_size": 32, "window_size": 4,
         "out_indices": (1,)},
        GAP, linear(16),
    ),
    "vit": (16, {"type": "VisionTransformer", "arch": VIT, "img_size": 16, "patch_size": 8}, None,
            {"type": "VisionTransformerClsHead", "num_classes": 10, "in_channels": 16}),
    "mixer": (32, {"type": "MlpMixer", "arch": MIXER, "img_size": 32, "patch_size": 8}, {"type": "GlobalAveragePooling", "dim": 1}, linear(16)),
    "convnext": (64, {"type": "ConvNeXt", "arch": {"depths": [1, 1, 2, 1], "channels": [8, 16, 24, 32]}}, None, linear(32)),
    "beit": (32, {"type": "BEiTViT", "arch": VIT, "img_size": 32, "patch_size": 8}, None, linear(16)),
    "eva": (
        32,
        {"type": "BEiTViT", "arch": VIT, "img_size": 32, "patch_size": 8, "layer_scale_init_value": 0.0, "use_abs_pos_emb": True,
         "use_rel_pos_bias": False, "layer_cfgs": {"bias": True}},
        None, linear(16),
    ),
    "hornet": (64, {"type": "HorNet", "arch": HORNET}, None, linear(64)),
}  # fmt: skip


def main():
    register_all_modules()
    out = {}
    for name, (side, backbone, neck, head) in CASES.items():
        config = {"type": "ImageClassifier", "backbone": backbone, "head": head, **({"neck": neck} if neck else {})}
        model = MODELS.build(config).eval()
        state = {key: fill(key, value.shape) if value.is_floating_point() else value for key, value in model.state_dict().items()}
        model.load_state_dict(state)
        image = torch.from_numpy(np.random.RandomState(0).standard_normal((2, side, side, 3)).astype(np.float32)).permute(0, 3, 1, 2)
        with torch.no_grad():
            out[f"{name}/logits"] = model.head(model.extract_feat(image)).numpy()
        named = {key: value for key, value in state.items() if value.is_floating_point()}
        out[f"{name}/names"] = np.array(list(named))
        out[f"{name}/shapes"] = np.array([(*value.shape, 0, 0, 0, 0)[:4] for value in named.values()])
        print(name, out[f"{name}/logits"].std())
    np.savez_compressed(pathlib.Path(__file__).with_name("openmmlab.npz"), **out)


if __name__ == "__main__":
    main()
