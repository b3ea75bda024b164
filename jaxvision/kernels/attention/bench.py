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


BENCH = (
    _case("ViT-S/16, 197 tokens", 197, 6, 64),
    _case("ViT-S/16, 577 tokens", 577, 6, 64),
    _case("ViT-B/16, 197 tokens", 197, 12, 64),
    _case("ViT-B/16, 577 tokens", 577, 12, 64),
    _case("ViT-L/16, 197 tokens", 197, 16, 64),
    _case("ViT-L/16, 577 tokens", 577, 16, 64),
    _case("Swin-T, stage 1, windows of 49", 49, 3, 32, 64),
    _case("Swin-T, stage 1, shifted windows of 49", 49, 3, 32, 64, own=True),
    _case("Swin-T, stage 3, windows of 49", 49, 12, 32, 4),
    _case("SwinV2-T, stage 1, windows of 64", 64, 3, 32, 64),
    _case("Swin-B/384, stage 3, windows of 144", 144, 16, 32, 4),
    _case("DRCT, 64x64 pixels, windows of 256", 256, 6, 30, 16),
)
