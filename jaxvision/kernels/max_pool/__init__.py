"""Maximum over windows. Only its derivative runs by different code on different hardware."""

import functools
from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.materialize import materialize
from jaxvision.kernels.max_pool import cpu, reference

Pair = tuple[int, int]
TANGENTS = {"cpu": cpu.tangent, "reference": reference.tangent}


def max_pool(
    x: Float[Array, "b h w c"],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    *,
    implementation: str | None = None,
) -> Float[Array, "b h2 w2 c"]:
    """y[b, p, q, c] = max over i, j of x[b, p sh + i - top, q sw + j - left, c]; pixels outside the image never win.

    The derivative goes to the first pixel of a window, row by row, that has its maximum. Differentiable to every order in both modes.

    Args:
      window, strides: (rows, columns). padding: ((top, bottom), (left, right)).
      implementation: of the derivative, "cpu" or "reference"; None takes the one for the platform that the program is compiled for.

    Raises ModelError when the implementation is unknown.
    """
    if implementation is not None and implementation not in TANGENTS:
        raise ModelError(f"max_pool has no implementation {implementation!r}; {nearest(implementation, TANGENTS)}")
    # The derivative on CPUs looks for the pixel that equals the maximum. Where the compiler computes x again inside that search, a normalization for
    # one, the two differ in their last bit and no pixel is found: so x is stored.
    return _max_pool(materialize(x), tuple(window), tuple(strides), tuple(tuple(side) for side in padding), implementation)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x, window: Pair, strides: Pair, padding: tuple[Pair, Pair], implementation: str | None):
    return reference.forward(x, window, strides, padding)


@_max_pool.defjvp
def _max_pool_jvp(window, strides, padding, implementation, primals, tangents):
    (x,), (dx,) = primals, tangents
    y = _max_pool(x, window, strides, padding, implementation)
    by_platform = {name: functools.partial(run, window=window, strides=strides, padding=padding) for name, run in TANGENTS.items()}
    if implementation is not None:
        return y, by_platform[implementation](x, y, dx)
    return y, jax.lax.platform_dependent(x, y, dx, cpu=by_platform["cpu"], default=by_platform["reference"])
