"""Attention inside windows of a map (Liu et al. 2021, Swin Transformer, arXiv 2103.14030): cutting, joining, shifted windows, relative positions.

Windows and shifts are (rows, columns); whatever depends on sizes alone is computed by numpy while tracing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxvision.errors import ModelError
from jaxvision.kernels.attention import self_attention
from jaxvision.nn.attention import QKV, weights_of
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.position import resize_grid
from jaxvision.nn.taps import tap

# Added to the scores of pairs that the shift made neighbours, as published.
FAR = -100.0


def window_partition(x: Float[Array, "b h w c"], window: tuple[int, int]) -> Float[Array, "b n t c"]:
    """The map as windows in row-major order, each a row-major list of its pixels. Raises ModelError unless the window divides the map."""
    (b, h, w, c), (rows, columns) = x.shape, window
    if h % rows or w % columns:
        raise ModelError(f"a map of {h}x{w} is not whole windows of {rows}x{columns}; pad it first")
    x = x.reshape(b, h // rows, rows, w // columns, columns, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, (h // rows) * (w // columns), rows * columns, c)


def window_reverse(windows: Float[Array, "b n t c"], window: tuple[int, int], size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """The inverse of `window_partition` for a map of `size` (h, w)."""
    (h, w), (rows, columns) = size, window
    x = windows.reshape(windows.shape[0], h // rows, w // columns, rows, columns, windows.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(windows.shape[0], h, w, windows.shape[-1])


def shifted_regions(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Int[np.ndarray, "n t"]:
    """Which part of the picture each pixel of a cyclically shifted map belongs to, window by window: pixels see those of the same number only."""
    parts = []
    for n, w, s in zip(size, window, shift):
        part = np.zeros(n, np.int32)
        if s:
            part[n - w : n - s], part[n - s :] = 1, 2
        parts.append(part)
    numbers = 3 * parts[0][:, None] + parts[1][None]
    (h, w), (rows, columns) = size, window
    return numbers.reshape(h // rows, rows, w // columns, columns).transpose(0, 2, 1, 3).reshape(-1, rows * columns)


def relative_position_index(window: tuple[int, int]) -> Int[np.ndarray, "t t"]:
    """Row of the relative-position table for each pair of pixels of a window: (2 columns - 1) (dy + rows - 1) + dx + columns - 1."""
    rows, columns = window
    y, x = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + rows - 1) * (2 * columns - 1) + dx + columns - 1


def resize_relative_table(table: Float[Array, "p n"], old: tuple[int, int], new: tuple[int, int]) -> Float[Array, "q n"]:
    """A relative-position table of windows of `old` size for windows of `new`: bilinear over the (2 rows - 1, 2 columns - 1) grid of offsets, as
    EfficientTrain (arXiv 2211.09703) resizes it between its phases. Raises ModelError when the table is not of that size."""
    (h, w), (h2, w2) = (tuple(2 * side - 1 for side in window) for window in (old, new))
    if table.shape[0] != h * w:
        raise ModelError(f"a relative-position table of {table.shape[0]} rows is not that of windows of {old[0]}x{old[1]}")
    return resize_grid(table.reshape(h, w, -1), (h2, w2), "bilinear_aliased").reshape(h2 * w2, -1)


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learned bias for each relative position (`relative_position_bias_table`), `qkv` and `proj` as timm.

    Taps `weights` (B, windows, heads, T, T), float32.
    """

    heads: int
    window: tuple[int, int]
    qkv_bias: bool = True
    kernel_init: Callable = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n t c"], regions: Int[np.ndarray, "n t"] | None = None) -> Float[Array, "b n t c"]:
        """`regions` are `shifted_regions`' numbers, None where nothing was shifted."""
        (b, n, t, dim), (rows, columns) = x.shape, self.window
        dtypes = {"kernel_init": self.kernel_init, "dtype": self.dtype, "param_dtype": self.param_dtype}
        table = self.param(
            "relative_position_bias_table", nn.initializers.normal(0.02), ((2 * rows - 1) * (2 * columns - 1), self.heads), self.param_dtype
        )
        bias = table.astype(jnp.float32)[relative_position_index(self.window)].transpose(2, 0, 1)[None]
        if regions is not None:
            bias = bias + jnp.where(regions[:, None, :, None] == regions[:, None, None, :], 0.0, FAR)
        qkv, offset = QKV(3 * dim, self.qkv_bias, **dtypes, name="qkv")(x)
        # Images one after the other: window j of each takes bias j.
        tap(self, "weights", lambda: jax.vmap(lambda qkv: weights_of(qkv, self.heads, bias, offset=offset))(qkv))
        y = self_attention(qkv.reshape(b * n, t, 3 * dim), self.heads, bias, offset=offset).reshape(b, n, t, dim)
        return Dense(dim, **dtypes, name="proj")(y)
