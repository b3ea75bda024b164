"""Checkpoints of OpenMMLab's classifiers (mmpretrain, earlier mmcls), and of distillers built on it, under timm's names.

Known are ResNet (and its "D" form), Swin, ViT, BEiT, EVA's ViT, MLP-Mixer, ConvNeXt and HorNet (this one under its authors' names). A distiller's
file holds a student, a teacher and what stood between them: the student is what is read. Of a detector's or a segmenter's file it is the backbone,
whose last norm becomes the classifier's; its head begins anew (`reinit_head=True`). What differs beside names: Swin's merging takes its four
pixels channel by channel (torch's `unfold`), and a ViT without a class token may still hold one, and its position.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

STUDENT = "student."
# Parts of detectors and segmenters, and norms of maps that a classifier has none of.
ELSEWHERE = r"(neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head)\..*"
INNER_NORMS = r"backbone\.norm[0-2]\..*"
Names = tuple[tuple[str, str | Callable[[re.Match], str]], ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """How files of one family of networks are told from others, and what they call timm's arrays.

    Attributes:
      mark: regular expression for the beginning of a name that its files have and no other's.
      names: regular expressions for whole names, tried in order, and timm's names. What is in none only loses its "backbone.".
      head: timm's name of the classifier's last layer.
    """

    mark: str
    names: Names
    head: str = "head"


_PROJECTION = (r"backbone\.patch_embed\.projection\.(\w+)", r"patch_embed.proj.\1")
_NORM = (r"backbone\.norm\d\.(\w+)", r"norm.\1")
_LAYERS = (
    (r"backbone\.layers\.(\d+)\.ln(\d)\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"backbone\.layers\.(\d+)\.(token|channel)_mix\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp_\2s.fc1.\3"),
    (r"backbone\.layers\.(\d+)\.(token|channel)_mix\.layers\.1\.(\w+)", r"blocks.\1.mlp_\2s.fc2.\3"),
    (r"backbone\.layers\.(.*)", r"blocks.\1"),
    (r"backbone\.ln1\.(\w+)", r"norm.\1"),
    (r"backbone\.ln2\.(\w+)", r"fc_norm.\1"),
)
# A `stages.1.downsample` ends a stage there and begins the next one here.
_SWIN = (
    _PROJECTION,
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa\.(.*)", r"layers.\1.blocks.\2.attn.\3"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (r"backbone\.stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1\.(\w+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (r"backbone\.stages\.(\d)\.blocks\.(.*)", r"layers.\1.blocks.\2"),
    (r"backbone\.stages\.(\d)\.downsample\.(.*)", lambda match: f"layers.{int(match[1]) + 1}.downsample.{match[2]}"),
    _NORM,
)
_HORNET = (
    (r"backbone\.stages\.(\d)\.(\d+)\.gnconv\.projs\.(.*)", r"stages.\1.\2.gnconv.pws.\3"),
    (r"backbone\.stages\.(\d)\.(\d+)\.(gamma\d)\.weight", r"stages.\1.\2.\3"),
    _NORM,
)
_CONVNEXT = (
    (r"backbone\.downsample_layers\.0\.(.*)", r"stem.\1"),
    (r"backbone\.downsample_layers\.(\d)\.(.*)", r"stages.\1.downsample.\2"),
    (r"backbone\.stages\.(\d)\.(\d+)\.depthwise_conv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (r"backbone\.stages\.(\d)\.(\d+)\.pointwise_conv(\d)\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"backbone\.stages\.(\d)\.(\d+)\.(.*)", r"stages.\1.blocks.\2.\3"),
    (r"backbone\.norm\d\.(\w+)", r"head.norm.\1"),
)
# timm counts the pooling before a shortcut also where the stride is 1.
_RESNET_D = (
    (r"backbone\.stem\.2\.bn\.(\w+)", r"bn1.\1"),
    (r"backbone\.stem\.(\d)\.(conv|bn)\.(\w+)", lambda match: f"conv1.{3 * int(match[1]) + (match[2] == 'bn')}.{match[3]}"),
    (r"backbone\.layer1\.0\.downsample\.(\d)\.(\w+)", lambda match: f"layer1.0.downsample.{int(match[1]) + 1}.{match[2]}"),
)
# In the order in which they are asked: HorNet's files have ConvNeXt's mark as well.
FAMILIES = {
    "swin": Family(r"backbone\.stages\.0\.blocks\.", _SWIN, "head.fc"),
    "hornet": Family(r"backbone\.stages\.0\.0\.gnconv\.", _HORNET),
    "convnext": Family(r"backbone\.downsample_layers\.", _CONVNEXT, "head.fc"),
    "mixer": Family(r"backbone\.layers\.0\.token_mix\.", ((_PROJECTION[0], r"stem.proj.\1"), *_LAYERS)),
    "vit": Family(r"backbone\.layers\.0\.attn\.", (_PROJECTION, *_LAYERS)),
    "resnet_d": Family(r"backbone\.stem\.", _RESNET_D, "fc"),
    "resnet": Family(r"backbone\.layer1\.", (), "fc"),
}


def as_timm(arrays: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """The arrays of an OpenMMLab file under timm's names and in timm's order of channels; those of any other file as they are.

    `model`: the network that they are for, which says whether there is a class token.
    """
    if any(name.startswith(f"{STUDENT}backbone.") for name in arrays):
        arrays = {name.removeprefix(STUDENT): array for name, array in arrays.items() if name.startswith(STUDENT)}
    if any(name.startswith("backbone.") for name in arrays) and any(re.match(ELSEWHERE, name) for name in arrays):
        arrays = {name: array for name, array in arrays.items() if name.startswith("backbone.") and not re.match(INNER_NORMS, name)}
    family = next((name for name, each in FAMILIES.items() if any(re.match(each.mark, name) for name in arrays)), None)
    if family is None:
        return dict(arrays)
    found = {_renamed(name, FAMILIES[family]): array for name, array in arrays.items()}
    if family == "swin":
        found = {name: _merged(array) if ".downsample." in name else array for name, array in found.items()}
    if family == "vit" and {"cls_token", "pos_embed"} <= found.keys() and not getattr(model, "class_token", True):
        del found["cls_token"]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def _renamed(name: str, family: Family) -> str:
    head = (r"head\.(?:fc|layers\.head)\.(\w+)", rf"{family.head}.\1")
    for pattern, ours in (head, *family.names, (r"backbone\.(.*)", r"\1")):
        if match := re.fullmatch(pattern, name):
            return match.expand(ours) if isinstance(ours, str) else ours(match)
    return name


def _merged(array: np.ndarray) -> np.ndarray:
    """The last axis from (channel, row, column) to (column, row, channel)."""
    *outer, width = array.shape
    return array.reshape(*outer, width // 4, 2, 2).swapaxes(-1, -3).reshape(array.shape)
