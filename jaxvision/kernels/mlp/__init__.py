"""The perceptron's branch of a transformer's or ConvNeXt's block as one op: a bias, norm, two layers with the exact GELU, and the residual sum."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.choice import chosen
from jaxvision.kernels.forms import Forms, Kernel
from jaxvision.kernels.materialize import materialize
from jaxvision.kernels.mlp import channels, examples, tpu
from jaxvision.kernels.mlp.reference import branch as _plain
from jaxvision.kernels.mlp.reference import gelu

__all__ = ["ahead", "gelu", "mlp_branch"]
_KERNEL = Kernel(tpu.forward, tpu.cotangents, tpu.covers, shared=(1, 2, 3, 4, 5))
_OP = Forms("mlp_branch", {"reference": _plain, "tpu": _plain}, {"tpu": "tpu"}, {"tpu": _KERNEL})


def mlp_branch(
    x: Float[Array, "b *p c"],
    w1: Float[Array, "c h"],
    b1: Float[Array, "h"],
    w2: Float[Array, "h c"],
    b2: Float[Array, "c"],
    *,
    shift: Float[Array, "c"],
    factor: Float[Array, "b"],
    skip: Float[Array, "b *p c"] | None = None,
    epsilon: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "b *p c"]:
    """skip + factor (gelu(norm(x + shift) w1 + b1) w2 + b2) over the last axis, in the dtype of `x`; weights and biases sum gradients in float32.

    Args:
      shift: the bias of what comes before. skip: what the branch is added to; None is `x` itself.
      factor: of each example, a constant through which no gradient goes (stochastic depth: 0, or 1 over the share that is kept).
      epsilon: of the norm over the last axis, (x - mean) / sqrt(variance + epsilon); None for none. Its scale and bias belong into w1 and b1, as the
        factors of a layer scale do into w2 and b2.
      implementation: "reference" (dense ops), "tpu" (one kernel that never writes the hidden values; interpreted on other platforms, dense ops where
        it does not cover the call); None takes that on TPUs. Differentiable to every order in both modes.

    Raises ModelError when shapes do not go together, or the implementation is unknown.
    """
    arrays = (x, w1, b1, w2, b2, shift, jax.lax.stop_gradient(factor), *(() if skip is None else (skip.astype(x.dtype),)))
    width, hidden = w1.shape
    wanted = (x.shape, (width, hidden), (hidden,), (hidden, width), (width,), (width,), x.shape[:1], x.shape)
    if x.ndim < 2 or x.shape[-1] != width or any(tuple(v.shape) != shape for v, shape in zip(arrays, wanted)):
        shapes = ", ".join(str(tuple(v.shape)) for v in arrays)
        expected = "values (b, …, c), weights (c, h), a bias (h,), weights (h, c), a bias (c,), a shift (c,), factors (b,) and a skip (b, …, c)"
        raise ModelError(f"the branch of a perceptron takes {expected}, not {shapes}")
    return materialize(_OP(*arrays, epsilon=epsilon, implementation=implementation))


def ahead(x: Float[Array, "b ..."]) -> bool:
    """Whether there is a platform where one kernel is faster than separate layers for values of this shape and dtype, in some batch."""
    width, (least, most) = x.shape[-1], channels.CHANNELS
    covered = least <= width <= most and width % channels.LANES == 0
    covered = covered or (x.ndim == 4 and width <= examples.MOST_CHANNELS)
    return x.dtype == jnp.bfloat16 and x.ndim in (3, 4) and covered and chosen(None) != "reference"
