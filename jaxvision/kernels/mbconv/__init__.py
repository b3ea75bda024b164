"""A whole inverted residual at inference: pointwise, depthwise or grouped convolution, pointwise, sum. Batch norms are folded into the weights.

Squeeze-and-excitation is not part of it: it needs the whole map between two of the layers.
"""

import functools

import jax
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.mbconv import reference
from jaxvision.kernels.mbconv.weights import Settings, Weights, fold_mbconv

__all__ = ["Settings", "Weights", "fold_mbconv", "mbconv"]
IMPLEMENTATIONS = ("reference", "layers")
# The widest kernel and the fewest rows of the image with which the fusion is ahead of the layers (docs/performance.md).
FUSED_KERNEL, FUSED_ROWS = 3, 28
PLAIN = Settings()


def mbconv(
    x: Float[Array, "b h w c"], weights: Weights, settings: Settings = PLAIN, *, implementation: str | None = None
) -> Float[Array, "b h2 w2 d"]:
    """project(activation(conv(activation(expand(x))))), plus x where the shapes agree; in the image's dtype. Half of the kernel pads each side.

    Args:
      weights: see `Weights`; of a block by `fold_mbconv`.
      implementation: "reference" is one program, of which the compiler for TPUs makes a single fusion that keeps the wide maps on the chip. "layers":
        a barrier after each of the three. None takes what is predicted to be quicker: on TPUs the layers for kernels wider than 3 and for images of
        fewer than 28 rows, else one program.

    Raises ModelError for kernels that do not fit the image, and for an unknown implementation.
    """
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ModelError(f"mbconv has no implementation {implementation!r}; {nearest(implementation, IMPLEMENTATIONS)}")
    channels, wide = weights.expand.shape
    if x.shape[-1] != channels or weights.conv.shape[-1] != wide or weights.project.shape[0] != wide:
        shapes = tuple(tuple(w.shape) for w in (weights.expand, weights.conv, weights.project))
        raise ModelError(f"a block of {x.shape[-1]} channels has kernels ({x.shape[-1]}, e), (k, k, g, e), (e, d), not {shapes}")
    run = lambda apart: functools.partial(reference.forward, settings=settings, apart=apart)
    if implementation is None and (weights.conv.shape[0] > FUSED_KERNEL or x.shape[1] < FUSED_ROWS):
        return jax.lax.platform_dependent(x, weights, tpu=run(True), default=run(False))
    return run(implementation == "layers")(x, weights)
