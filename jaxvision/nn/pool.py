"""Pooling with PyTorch's conventions (integer padding, `ceil_mode`, `count_include_pad`) or TensorFlow's "SAME"."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.kernels import max_pool as kernels

Pair = int | Sequence[int]


def max_pool(x: Float[Array, "b h w c"], window: Pair, strides: Pair, padding: Pair | str = 0, ceil_mode: bool = False) -> Float[Array, "b h2 w2 c"]:
    """Maximum over windows; padding never wins. `padding`: pixels on each side, or "SAME". `ceil_mode`: keep the last, incomplete window."""
    window, strides = _pair(window), _pair(strides)
    pads = _pads(x.shape[1:3], window, strides, padding, ceil_mode)
    return kernels.max_pool(x, window, strides, pads)


def avg_pool(
    x: Float[Array, "b h w c"], window: Pair, strides: Pair, padding: Pair | str = 0, ceil_mode: bool = False, count_include_pad: bool = False
) -> Float[Array, "b h2 w2 c"]:
    """Mean over windows, summed in float32. Padding is left out of the count unless `count_include_pad`; what `ceil_mode` adds never counts."""
    window, strides = _pair(window), _pair(strides)
    pads = _pads(x.shape[1:3], window, strides, padding, ceil_mode)
    counted = jnp.ones((1, *x.shape[1:3], 1), jnp.float32)
    if count_include_pad and not isinstance(padding, str):
        inside = tuple((p, p) for p in _pair(padding))
        counted = jnp.pad(counted, ((0, 0), *inside, (0, 0)), constant_values=1.0)
        outside = tuple((low - p, high - p) for (low, high), (p, _) in zip(pads, inside))
    else:
        outside = pads
    total = _window_sum(x.astype(jnp.float32), window, strides, pads)
    return (total / _window_sum(counted, window, strides, outside)).astype(x.dtype)


def _window_sum(x, window, strides, pads):
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _pads(size: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: Pair | str, ceil_mode: bool) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        return tuple(jax.lax.padtype_to_pads(size, window, strides, padding))
    pads = []
    for n, k, s, p in zip(size, window, strides, _pair(padding)):
        extra = 0
        if ceil_mode and (rest := (n + 2 * p - k) % s):
            # A window that would start in the padding after the image is dropped, as PyTorch drops it.
            starts_at = n + 2 * p - k - rest + s
            extra = s - rest if starts_at < n + p else 0
        pads.append((p, p + extra))
    return tuple(pads)


def adaptive_avg_pool(x: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b h2 w2 c"]:
    """Means over `size` windows that cover the map, overlapping where they must.

    Of n windows on m pixels, window i spans floor(i m / n) to ceil((i + 1) m / n), as in PyTorch.
    """
    rows, columns = (_adaptive_weights(m, n) for m, n in zip(x.shape[1:3], size))
    return jnp.einsum("bhwc,ph,qw->bpqc", x.astype(jnp.float32), rows, columns).astype(x.dtype)


def _adaptive_weights(m: int, n: int) -> Float[Array, "n m"]:
    weights = np.zeros((n, m), np.float32)
    for i in range(n):
        start, stop = i * m // n, -(-(i + 1) * m // n)
        weights[i, start:stop] = 1 / (stop - start)
    return jnp.asarray(weights)
