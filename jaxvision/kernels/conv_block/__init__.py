"""A whole residual block at inference: convolution, two pointwise layers, sum. Batch norm, layer norm and layer scale are folded into the weights."""

import functools

import jax
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.conv_block import reference, tpu
from jaxvision.kernels.conv_block.weights import Settings, Weights, fold_convfirst, fold_convnext
from jaxvision.kernels.sharded import context_cut

__all__ = ["Settings", "Weights", "conv_block", "fold_convfirst", "fold_convnext"]
IMPLEMENTATIONS = ("reference", "tpu")
PLAIN = Settings()


def conv_block(
    x: Float[Array, "b h w c"], weights: Weights, settings: Settings = PLAIN, *, implementation: str | None = None
) -> Float[Array, "b h w c"]:
    """x + project(activation(expand(norm(conv(x))))), in the image's dtype.

    Stride 1. Differentiable where the reference runs, for it is inference's.

    Args:
      weights: see `Weights`; of a ConvFirst block by `fold_convfirst`, of a ConvNeXt block by `fold_convnext`.
      implementation: "tpu" (interpreted elsewhere), or "reference": the layers one by one, which None takes everywhere, for the compiler's own
        fusions are predicted ahead of the kernel (docs/performance.md). What the kernel does not cover is left to the reference too.

    Raises ModelError for kernels that do not fit the image, and for an unknown implementation.
    """
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ModelError(f"conv_block has no implementation {implementation!r}; {nearest(implementation, IMPLEMENTATIONS)}")
    channels, wide = x.shape[-1], weights.expand.shape[-1]
    if weights.conv.shape[-1] != channels or weights.expand.shape[0] != channels or weights.project.shape != (wide, channels):
        shapes = tuple(tuple(w.shape) for w in (weights.conv, weights.expand, weights.project))
        raise ModelError(f"a block of {channels} channels has kernels (k, k, g, {channels}), ({channels}, e), (e, {channels}), not {shapes}")

    cut = context_cut()
    local = jax.ShapeDtypeStruct(cut.local(x.shape), x.dtype)
    if implementation != "tpu" or not (cut.fits(x.shape[0]) and tpu.covers(local, weights, settings)):
        return reference.forward(x, weights, settings)

    def kernel(interpret):
        run = functools.partial(tpu.forward, settings=settings, interpret=interpret)
        return cut.over(lambda x, *weights: run(x, Weights(*weights)), (True, *(False,) * len(weights)))

    return jax.lax.platform_dependent(x, *weights, tpu=kernel(False), default=kernel(True))
