"""Position embeddings: fixed sine-cosine tables, and learned tables brought to another grid."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.errors import ModelError


def sincos_2d(rows: int, columns: int, dim: int, temperature: float = 10_000.0) -> Float[np.ndarray, "n d"]:
    """Sines and cosines of the patch's column, then of its row, `dim` / 4 frequencies each (MoCo v3, arXiv 2104.02057; big_vision's "sincos2d").

    Returns (rows * columns, dim) float32, row-major. Raises ModelError unless dim is a multiple of 4.
    """
    if dim % 4 or dim < 8:
        raise ModelError(f"sine-cosine positions need a width that is a multiple of 4 and at least 8, got dim={dim}")
    omega = 1.0 / temperature ** (np.arange(dim // 4) / (dim // 4 - 1))
    y, x = np.mgrid[:rows, :columns]
    y, x = y.reshape(-1, 1) * omega, x.reshape(-1, 1) * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5, what antialiased bicubic resizing uses."""
    x = np.abs(x)
    inner, outer = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def _linear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)


_KERNELS = {"bicubic": _cubic, "bilinear": _linear, "bilinear_aliased": _linear}


@functools.cache
def resize_matrix(old: int, new: int, method: str = "bicubic") -> Float[np.ndarray, "new old"]:
    """The linear map that brings `old` equally spaced values to `new` ones.

    Args:
      method: "bicubic" or "bilinear", pixel centres at half integers and antialiased when shrinking (PyTorch's `interpolate(antialias=True)`, what
        timm does to position embeddings), "bilinear_aliased", the same without antialiasing (PyTorch's default), or "corners": bilinear between
        aligned end points (`scipy.ndimage.zoom(order=1)`, what the loaders of the JAX releases do).
    """
    if method == "corners":
        where = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
        return _linear(where[:, None] - np.arange(old)[None])
    stretch = 1.0 if method == "bilinear_aliased" else max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new
    weights = _KERNELS[method]((centres[:, None] - (np.arange(old)[None] + 0.5)) / stretch)
    return weights / weights.sum(1, keepdims=True)


def resize_grid(table: Float[Array, "h w d"], new: tuple[int, int], method: str = "bicubic") -> Any:
    """A (rows, columns, d) table on a `new` (rows, columns) grid; numpy in, numpy out, and jax likewise. Computed in float32, dtype kept."""
    if tuple(table.shape[:2]) == tuple(new):
        return table
    rows, columns = (resize_matrix(old, n, method).astype(np.float32) for old, n in zip(table.shape[:2], new))
    wide = table.astype(np.float32)
    down = (rows @ wide.reshape(wide.shape[0], -1)).reshape(new[0], *wide.shape[1:])
    across = columns @ down.transpose(1, 0, 2).reshape(wide.shape[1], -1)
    return across.reshape(new[1], new[0], wide.shape[2]).transpose(1, 0, 2).astype(table.dtype)


def resize_position(
    table: Float[Array, "1 t d"], old: tuple[int, int], new: tuple[int, int], prefix: int = 0, method: str = "bicubic"
) -> Float[Array, "1 s d"]:
    """A flat position table of `prefix` extra tokens and an `old` grid, with its grid part brought to `new`.

    Raises ModelError when the table is not that long.
    """
    if table.shape[1] != prefix + old[0] * old[1]:
        raise ModelError(f"a position table of {table.shape[1]} rows is not {prefix} extra tokens and a grid of {old[0]}x{old[1]}")
    if tuple(old) == tuple(new):
        return table
    dim = table.shape[-1]
    grid = resize_grid(table[0, prefix:].reshape(*old, dim), new, method).reshape(new[0] * new[1], dim)
    if not prefix:
        return grid[None]
    library = np if isinstance(table, np.ndarray) else jnp
    return library.concatenate([table[0, :prefix], grid], axis=0)[None]
