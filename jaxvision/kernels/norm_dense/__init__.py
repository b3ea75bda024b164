"""Layer normalization and the linear map that follows it, as one op: what makes queries, keys and values of a transformer's tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.choice import chosen
from jaxvision.kernels.dense import dense
from jaxvision.kernels.forms import Forms, Kernel
from jaxvision.kernels.norm_dense import tpu
from jaxvision.kernels.normalize import standardize

__all__ = ["ahead", "norm_dense"]


def _plain(x, w, *, epsilon):
    return dense(standardize(x, (x.ndim - 1,), epsilon).astype(x.dtype), w.astype(x.dtype))


_KERNEL = Kernel(tpu.forward, tpu.cotangents, tpu.covers, shared=(1,))
_OP = Forms("norm_dense", {"reference": _plain, "tpu": _plain}, {"tpu": "tpu"}, {"tpu": _KERNEL})


def norm_dense(
    x: Float[Array, "b *p c"], w: Float[Array, "c d"], *, epsilon: float, implementation: str | None = None
) -> Float[Array, "b *p d"]:
    """(x - mean) / sqrt(variance + epsilon) over the last axis, times w, in the dtype of `x`; the norm's scale and bias belong into w and a bias.

    Args:
      implementation: "reference" (two ops), "tpu" (one kernel, which writes no normalized values; interpreted on other platforms, two ops where it
        does not cover the call); None takes that on TPUs. Differentiable to every order in both modes.

    Raises ModelError when shapes do not go together, or the implementation is unknown.
    """
    if x.ndim < 2 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ModelError(f"norm_dense takes values (b, …, c) and weights (c, d), not {tuple(x.shape)}, {tuple(w.shape)}")
    return _OP(x, w, epsilon=epsilon, implementation=implementation)


def ahead(x: Float[Array, "b ..."], features: int) -> bool:
    """Whether there is a platform where one kernel is faster than two ops for values of this shape and dtype, in some batch."""
    return x.dtype == jnp.bfloat16 and x.ndim == 3 and tpu.fits(x.shape[-1], features) and chosen(None) != "reference"
