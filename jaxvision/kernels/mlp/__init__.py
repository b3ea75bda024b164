"""The perceptron of a block as one op: two dense layers, the exact GELU between them, and a normalization before them where asked for."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.forms import Forms, Kernel
from jaxvision.kernels.mlp import tpu
from jaxvision.kernels.mlp.reference import gelu
from jaxvision.kernels.mlp.reference import mlp as _plain

__all__ = ["ahead", "gelu", "mlp"]
_KERNEL = Kernel(tpu.forward, tpu.cotangents, tpu.covers, shared=(1, 2, 3, 4))
_OP = Forms("mlp", {"reference": _plain, "tpu": _plain}, {"tpu": "tpu"}, {"tpu": _KERNEL})


def mlp(
    x: Float[Array, "b *p c"],
    w1: Float[Array, "c h"],
    b1: Float[Array, "h"],
    w2: Float[Array, "h d"],
    b2: Float[Array, "d"],
    *,
    epsilon: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "b *p d"]:
    """gelu(x w1 + b1) w2 + b2 over the last axis, in the dtype of `x`; gradients of weights and biases are summed in float32.

    Args:
      epsilon: where given, x is normalized over its last axis first, (x - mean) / sqrt(variance + epsilon). Scale and bias of that norm belong into
        w1 and b1, as the factors of a layer scale do into w2 and b2.
      implementation: "reference" (two dense ops), "tpu" (one kernel that never writes the hidden values, for maps of few channels; interpreted on
        other platforms, two dense ops where it does not cover the call); None takes that on TPUs where it is ahead. Differentiable to every order in
        both modes.

    Raises ModelError when shapes do not go together, or the implementation is unknown.
    """
    channels, hidden = w1.shape
    if x.ndim < 2 or x.shape[-1] != channels or b1.shape != (hidden,) or w2.shape[0] != hidden or b2.shape != w2.shape[1:]:
        shapes = ", ".join(str(tuple(v.shape)) for v in (x, w1, b1, w2, b2))
        raise ModelError(f"a perceptron takes values (b, …, c), weights (c, h), a bias (h,), weights (h, d) and a bias (d,), not {shapes}")
    if implementation is None and not (w2.shape[1] == channels and ahead(x)):
        return _plain(x, w1, b1, w2, b2, epsilon)
    return _OP(x, w1, b1, w2, b2, epsilon=epsilon, implementation=implementation)


def ahead(x: Float[Array, "b ..."]) -> bool:
    """Whether there is a platform where one kernel is faster than separate layers for values of this shape and dtype, in some batch."""
    return x.dtype == jnp.bfloat16 and x.ndim == 4 and x.shape[-1] <= tpu.MOST_CHANNELS
