"""The Vision Transformer's weights in other people's files: timm's and DeiT's, and the spellings of the JAX releases."""

import math
import re

import numpy as np
from flax import linen as nn

from jaxvision.models.rules import Rule
from jaxvision.nn.patch import patch_grid
from jaxvision.nn.position import resize_position


def _resize_pos_embed(value, old: nn.Module, new: nn.Module, method: str = "bicubic"):
    grids = (patch_grid(model.image_size, model.patch) for model in (old, new))
    return resize_position(value, *grids, prefix=new.position_prefix, method=method)


SIZE_DEPENDENT = ((r"pos_embed", _resize_pos_embed),)


def _join_heads(arrays, shape):
    """q, k, v kernels (d, heads, k) -> one (d, 3 d)."""
    return np.concatenate([array.reshape(array.shape[0], -1) for array in arrays], axis=-1)


def _join_biases(arrays, shape):
    """q, k, v biases (heads, k) -> one (3 d,)."""
    return np.concatenate([array.reshape(-1) for array in arrays])


def _flat_heads(arrays, shape):
    """The output kernel (heads, k, d) -> (d, d)."""
    return arrays[0].reshape(-1, arrays[0].shape[-1])


def _thirds(array):
    return np.split(array, 3, axis=-1)


_BLOCK = r"Transformer/encoderblock_\1/"
_QKV = tuple(rf"{_BLOCK}MultiHeadDotProductAttention_1/{name}" for name in ("query", "key", "value"))
_LAYER = r"encoder.layers.encoder_layer_\1."
CHECKPOINT = {
    "torch": (Rule(r"pre_logits/(\w+)", r"pre_logits.fc.\1"),),
    "torchvision": (
        Rule(r"patch_embed/proj/(\w+)", r"conv_proj.\1"),
        Rule(r"cls_token", "class_token"),
        Rule(r"pos_embed", "encoder.pos_embedding"),
        Rule(r"blocks_(\d+)/norm(\d)/(\w+)", rf"{_LAYER}ln_\2.\3"),
        Rule(r"blocks_(\d+)/attn/qkv/kernel", rf"{_LAYER}self_attention.in_proj_weight"),
        Rule(r"blocks_(\d+)/attn/qkv/bias", rf"{_LAYER}self_attention.in_proj_bias"),
        Rule(r"blocks_(\d+)/attn/proj/(\w+)", rf"{_LAYER}self_attention.out_proj.\2"),
        Rule(r"blocks_(\d+)/mlp/fc1/(\w+)", rf"{_LAYER}mlp.0.\2"),
        Rule(r"blocks_(\d+)/mlp/fc2/(\w+)", rf"{_LAYER}mlp.3.\2"),
        Rule(r"norm/(\w+)", r"encoder.ln.\1"),
        Rule(r"head/(\w+)", r"heads.head.\1"),
    ),
    # The first JAX releases' names, where the children of a block are numbered through; `adapt_checkpoint` brings the later ones to these.
    "npz": (
        Rule(r"patch_embed/proj/(\w+)", r"embedding/\1"),
        Rule(r"cls_token", "cls"),
        Rule(r"pos_embed", "Transformer/posembed_input/pos_embedding"),
        Rule(r"blocks_(\d+)/norm1/(\w+)", rf"{_BLOCK}LayerNorm_0/\2"),
        Rule(r"blocks_(\d+)/norm2/(\w+)", rf"{_BLOCK}LayerNorm_2/\2"),
        Rule(r"blocks_(\d+)/attn/qkv/kernel", tuple(f"{name}/kernel" for name in _QKV), _join_heads, _thirds),
        Rule(r"blocks_(\d+)/attn/qkv/bias", tuple(f"{name}/bias" for name in _QKV), _join_biases, _thirds),
        Rule(r"blocks_(\d+)/attn/proj/kernel", rf"{_BLOCK}MultiHeadDotProductAttention_1/out/kernel", _flat_heads),
        Rule(r"blocks_(\d+)/attn/proj/bias", rf"{_BLOCK}MultiHeadDotProductAttention_1/out/bias"),
        Rule(r"blocks_(\d+)/mlp/fc1/(\w+)", rf"{_BLOCK}MlpBlock_3/Dense_0/\2"),
        Rule(r"blocks_(\d+)/mlp/fc2/(\w+)", rf"{_BLOCK}MlpBlock_3/Dense_1/\2"),
        Rule(r"norm/(\w+)", r"Transformer/encoder_norm/\1"),
    ),
}


def adapt_checkpoint(arrays: dict[str, np.ndarray], layout: str, model: nn.Module) -> dict[str, np.ndarray]:
    """The arrays of a file under the names that CHECKPOINT uses.

    torch: DeiT III's own `gamma_1`, and the perceptrons of torchvision's first files. npz: linen's numbering by type, big_vision's `pos_embedding`
    at the top, and its scanned `encoderblock` with a leading layer axis. In both the class token's row of the position table is added, or folded
    into the class token, where file and model differ in having one.
    """
    if layout == "torch":
        arrays = {re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name): array for name, array in arrays.items()}
        arrays = {name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): array for name, array in arrays.items()}
        return _match_class_row(arrays, "cls_token", "pos_embed", model, None)
    adapted = {}
    for name, array in arrays.items():
        if match := re.match(r"Transformer/encoderblock/(.*)", name):
            adapted.update({f"Transformer/encoderblock_{i}/{match[1]}": part for i, part in enumerate(array)})
        else:
            adapted[name] = array
    table, has_row = "Transformer/posembed_input/pos_embedding", True
    if "Transformer/pos_embedding" in adapted:
        adapted[table] = adapted.pop("Transformer/pos_embedding")
    if "pos_embedding" in adapted:
        adapted[table] = adapted.pop("pos_embedding")
        has_row = not _is_square(adapted[table].shape[1]) and adapted[table].shape[1] != math.prod(patch_grid(model.image_size, model.patch))
    if any("/MlpBlock_0/" in name for name in adapted):
        for old, new in (("LayerNorm_1", "LayerNorm_2"), ("DotProductAttention_0", "DotProductAttention_1"), ("MlpBlock_0", "MlpBlock_3")):
            adapted = {name.replace(f"{old}/", f"{new}/"): array for name, array in adapted.items()}
    return _resize_like_jax(_match_class_row(adapted, "cls", table, model, has_row), table, model)


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _match_class_row(arrays, token: str, table: str, model: nn.Module, has_row: bool | None):
    """Adding a row to the class token is the same as adding it to the token itself, so either form can be read into the other.

    `has_row`: whether the file's table has a row for the class token; None: as its length tells, the model's own form first.
    """
    if table not in arrays or token not in arrays or model.distilled or not model.class_token:
        return arrays
    if has_row is None:
        rows, patches = arrays[table].shape[1], math.prod(patch_grid(model.image_size, model.patch))
        own, other = (1, 0) if model.class_position else (0, 1)
        fits = [(prefix, test) for test in (lambda n: n == patches, _is_square) for prefix in (own, other) if test(max(rows - prefix, 0))]
        has_row = bool(fits[0][0] if fits else own)
    if model.class_position and not has_row:
        return {**arrays, table: np.concatenate([np.zeros_like(arrays[table][:, :1]), arrays[table]], axis=1)}
    if not model.class_position and has_row:
        return {**arrays, token: arrays[token] + arrays[table][:, :1], table: arrays[table][:, 1:]}
    return arrays


def _resize_like_jax(arrays, table: str, model: nn.Module):
    """The JAX releases' own way of resizing a square table: bilinear between aligned corners, where timm's is bicubic."""
    if table not in arrays or model.position != "learned":
        return arrays
    prefix, new = model.position_prefix, patch_grid(model.image_size, model.patch)
    patches = arrays[table].shape[1] - prefix
    side = math.isqrt(max(patches, 0))
    if patches == math.prod(new) or side**2 != patches:
        return arrays
    return {**arrays, table: resize_position(arrays[table], (side, side), new, prefix, method="corners")}
