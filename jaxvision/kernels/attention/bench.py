"""Attention of ViT, Swin and DRCT. Arguments are what the projection makes, its bias, and for windows the bias of relative positions."""

import jax
import jax.numpy as jnp

from jaxvision.kernels.attention import self_attention
from jaxvision.kernels.cases import Case, spec


def _case(name: str, tokens: int, heads: int, width: int, windows: int = 0, own: bool = False) -> Case:
    """windows: of an image, 0 for none; own: each has a bias of its own, as in blocks that shift them."""

    def call(qkv: jax.Array, offset: jax.Array, *bias: jax.Array, implementation: str | None) -> jax.Array:
        return self_attention(qkv, heads, *bias, offset=offset, implementation=implementation)

    def arguments(batch, dtype):
        row = 3 * heads * width
        bias = [spec(windows if own else 1, heads, tokens, tokens, dtype=jnp.float32)] if windows else []
        return spec(batch * max(windows, 1), tokens, row, dtype=dtype), spec(row, dtype=dtype), *bias

    return Case(name, call, arguments)


def _vit(name: str, heads: int, *tokens: int) -> list[Case]:
    return [_case(f"{name}, {n} tokens", n, heads, 64) for n in tokens]


def _drct(heads: int, width: int) -> Case:
    return _case(f"DRCT, 64x64 pixels, windows of 256, {heads} x {width}", 256, heads, width, 16)


BENCH = (
    *_vit("ViT-S/16", 6, 197, 577),
    *_vit("ViT-B/16", 12, 197, 577, 1600, 4096),
    *_vit("ViT-L/16", 16, 197, 577),
    _case("BEiT-B/16, 197 tokens, relative positions", 197, 12, 64, 1),
    _case("BEiT-B/16, 577 tokens, relative positions", 577, 12, 64, 1),
    _case("Swin-T, stage 1, windows of 49", 49, 3, 32, 64),
    _case("Swin-T, stage 1, shifted windows of 49", 49, 3, 32, 64, own=True),
    _case("Swin-T, stage 3, windows of 49", 49, 12, 32, 4),
    _case("SwinV2-T, stage 1, windows of 64", 64, 3, 32, 64),
    _case("Swin-B/384, stage 3, windows of 144", 144, 16, 32, 4),
    *(_drct(*each) for each in ((6, 30), (4, 53), (2, 122), (6, 46), (4, 77))),
)
