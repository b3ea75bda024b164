"""Checkpoints of OpenMMLab's classifiers (mmpretrain, earlier mmcls), and of distillers built on it, under timm's names.

Known are ResNet (and its "D" form), Swin, ViT, MLP-Mixer and ConvNeXt. A distiller's file holds a student, a teacher and what stood between them:
the student is what is read. What differs beside names: Swin's merging takes its four pixels channel by channel (torch's `unfold`), and a ViT without
a class token may still hold one, and its position.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

STUDENT = "student."
HEADS = {"resnet": "fc", "resnet_d": "fc", "convnext": "head.fc", "swin": "head.fc"}
# Regular expressions for whole names, tried in order, and timm's names. A `stages.1.downsample` ends a stage there and begins the next one here.
NAMES: tuple[tuple[str, Any], ...] = (
    (r"head\.fc\.(\w+)", lambda match, family: f"{HEADS.get(family, 'head')}.{match[1]}"),
    (r"head\.layers\.head\.(\w+)", r"head.\1"),
    (r"backbone\.patch_embed\.projection\.(\w+)", lambda match, family: f"{'stem' if family == 'mixer' else 'patch_embed'}.proj.{match[1]}"),
    # Swin
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa\.(.*)", r"layers.\1.blocks.\2.attn.\3"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1\.(\w+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (r"backbone\.stages\.(\d)\.blocks\.(.*)", r"layers.\1.blocks.\2"),
    (r"backbone\.stages\.(\d)\.downsample\.(.*)", lambda match, family: f"layers.{int(match[1]) + 1}.downsample.{match[2]}"),
    # ConvNeXt
    (r"backbone\.downsample_layers\.0\.(.*)", r"stem.\1"),
    (r"backbone\.downsample_layers\.(\d)\.(.*)", r"stages.\1.downsample.\2"),
    (r"backbone\.stages\.(\d)\.(\d+)\.depthwise_conv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (r"backbone\.stages\.(\d)\.(\d+)\.pointwise_conv(\d)\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"backbone\.stages\.(\d)\.(\d+)\.(.*)", r"stages.\1.blocks.\2.\3"),
    (r"backbone\.norm\d\.(\w+)", lambda match, family: f"{'head.norm' if family == 'convnext' else 'norm'}.{match[1]}"),
    # Transformers and mixers
    (r"backbone\.layers\.(\d+)\.ln(\d)\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"backbone\.layers\.(\d+)\.(token|channel)_mix\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp_\2s.fc1.\3"),
    (r"backbone\.layers\.(\d+)\.(token|channel)_mix\.layers\.1\.(\w+)", r"blocks.\1.mlp_\2s.fc2.\3"),
    (r"backbone\.layers\.(.*)", r"blocks.\1"),
    (r"backbone\.ln1\.(\w+)", r"norm.\1"),
    # ResNet
    (r"backbone\.stem\.2\.bn\.(\w+)", r"bn1.\1"),
    (r"backbone\.stem\.(\d)\.(conv|bn)\.(\w+)", lambda match, family: f"conv1.{3 * int(match[1]) + (match[2] == 'bn')}.{match[3]}"),
    (r"backbone\.layer1\.0\.downsample\.(\d)\.(\w+)", lambda match, family: f"layer1.0.downsample.{_shortcut(match, family)}.{match[2]}"),
    (r"backbone\.(.*)", r"\1"),
)
# What a family's file has and no other's.
FAMILIES = (
    ("swin", r"backbone\.stages\.0\.blocks\."),
    ("convnext", r"backbone\.downsample_layers\."),
    ("mixer", r"backbone\.layers\.0\.token_mix\."),
    ("vit", r"backbone\.layers\.0\.attn\."),
    ("resnet_d", r"backbone\.stem\."),
    ("resnet", r"backbone\.layer1\."),
)


def _shortcut(match: re.Match, family: str) -> int:
    """timm counts the pooling before a shortcut also where the stride is 1."""
    return int(match[1]) + (family == "resnet_d")


def as_timm(arrays: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """The arrays of an OpenMMLab file under timm's names and in timm's order of channels; those of any other file as they are.

    `model`: the network that they are for, which says whether there is a class token.
    """
    if any(name.startswith(f"{STUDENT}backbone.") for name in arrays):
        arrays = {name.removeprefix(STUDENT): array for name, array in arrays.items() if name.startswith(STUDENT)}
    family = next((family for family, pattern in FAMILIES if any(re.match(pattern, name) for name in arrays)), None)
    if family is None:
        return dict(arrays)
    found = {_renamed(name, family): array for name, array in arrays.items()}
    if family == "swin":
        found = {name: _merged(array) if ".downsample." in name else array for name, array in found.items()}
    if family == "vit" and "cls_token" in found and not getattr(model, "class_token", True):
        del found["cls_token"]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def _renamed(name: str, family: str) -> str:
    for pattern, ours in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours) if isinstance(ours, str) else ours(match, family)
    return name


def _merged(array: np.ndarray) -> np.ndarray:
    """The last axis from (channel, row, column) to (column, row, channel)."""
    *outer, width = array.shape
    return array.reshape(*outer, width // 4, 2, 2).swapaxes(-1, -3).reshape(array.shape)
