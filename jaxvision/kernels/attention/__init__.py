"""Attention: softmax(q k^T / sqrt(width) + bias) v, scores and softmax in float32."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.attention import op
from jaxvision.kernels.attention.call import Call
from jaxvision.kernels.attention.reference import attention_weights
from jaxvision.kernels.choice import chosen
from jaxvision.kernels.manual_axes import alike
from jaxvision.kernels.sharded import context_cut

__all__ = ["attention", "attention_weights", "self_attention"]
# What a forbidden pair's score is lowered by: the weight is 0 in float32, and a row without any allowed pair stays finite.
FORBIDDEN = -1e30


def self_attention(
    qkv: Float[Array, "b t m"],
    heads: int,
    bias: Float[Array, "n #h t t"] | None = None,
    *,
    offset: Float[Array, "m"] | None = None,
    mask: Bool[Array, "n #h t t"] | None = None,
    dropout: float = 0.0,
    seed: UInt32[Array, "b"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "b t d"]:
    """Attention of a sequence to itself, from what one projection made: m = 3 d, ordered q, k, v, each heads x width. Heads lie side by side in d.

    Args:
      offset: added to every token's qkv first, the projection's own bias: its gradient is summed where the others are made.
      bias: added to the scores; n divides b, and example i takes number i modulo n: 1 for all examples, the windows of an image, or one each.
      mask: pairs that are allowed.
      dropout: share of the weights that is zeroed, the others scaled up; `seed` is then a number an example, from which the same weights are
        dropped on every platform.
      implementation: "reference", "tpu", "cuda", or "triton", which is "cuda" without cuDNN; None takes the one for the platform that the program is
        compiled for: on TPUs kernels for short and long sequences, on NVIDIA GPUs cuDNN where there are 16 bits, no bias and no dropout, and else
        Triton's kernels up to 256 tokens. Where these do not cover the shapes, and in exported programs for GPUs, it is plain XLA code.

    Differentiable to every order in both modes. On a mesh (`jax.set_mesh`) each device computes its own examples.
    Raises ModelError when shapes do not go together.
    """
    if qkv.ndim != 3 or qkv.shape[-1] % (3 * heads):
        raise ModelError(f"self-attention of {heads} heads takes (b, t, 3 x heads x width), not {tuple(qkv.shape)}")
    if offset is not None and offset.shape != qkv.shape[-1:]:
        raise ModelError(f"the offset of self-attention is ({qkv.shape[-1]},) as qkv's last axis, not {tuple(offset.shape)}")
    return _bind((qkv,), heads, offset, bias, mask, dropout, seed, implementation)


def attention(
    q: Float[Array, "b q h k"],
    k: Float[Array, "b t h k"],
    v: Float[Array, "b t h d"],
    bias: Float[Array, "n #h q t"] | None = None,
    *,
    mask: Bool[Array, "n #h q t"] | None = None,
    dropout: float = 0.0,
    seed: UInt32[Array, "b"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "b q h d"]:
    """Attention of queries to keys; arguments as those of `self_attention`, with heads an axis of their own."""
    if q.ndim != 4 or k.shape[:3] != v.shape[:3] or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ModelError(f"attention takes q (b, q, h, k), k (b, t, h, k), v (b, t, h, d), not {q.shape}, {k.shape}, {v.shape}")
    flat = tuple(x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    y = _bind(flat, q.shape[2], None, bias, mask, dropout, seed, implementation)
    return y.reshape(*q.shape[:3], v.shape[-1])


def _bind(arrays, heads: int, offset, bias, mask, dropout: float, seed, implementation: str | None):
    b, q, t = arrays[0].shape[0], arrays[0].shape[1], arrays[-1].shape[1]
    implementation = chosen(implementation)
    if implementation is not None and implementation not in op.IMPLEMENTATIONS:
        raise ModelError(f"attention has no implementation {implementation!r}; {nearest(implementation, op.IMPLEMENTATIONS)}")
    for name, value in (("bias", bias), ("mask", mask)):
        if value is not None and (value.ndim != 4 or value.shape[1] not in (1, heads) or value.shape[2:] != (q, t) or b % value.shape[0]):
            raise ModelError(f"the {name} of attention is (n, 1 or {heads}, {q}, {t}) with n a divisor of {b}, not {tuple(value.shape)}")
    if mask is not None:
        allowed = jnp.where(mask, 0.0, FORBIDDEN)
        bias = allowed if bias is None else bias + allowed
    if bool(dropout) != (seed is not None):
        raise ModelError("attention takes `seed`, one number an example, where dropout > 0, and only there")
    operands = [x for x in (*arrays, None if offset is None else offset[None], bias, seed) if x is not None]
    call = Call(heads, len(arrays) == 1, offset is not None, bias is not None, float(dropout), cut=context_cut(), implementation=implementation)
    return op.forward.bind(*alike(*operands), call=call)
