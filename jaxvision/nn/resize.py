"""Resizing by static matrices, one an axis: bicubic as MATLAB's imresize does it, which is what published figures of super-resolution rest on.

Keys' kernel with a = -1/2, stretched by the factor when a picture shrinks (antialiasing). Beyond the border MATLAB mirrors the picture
("mirror"); torch's `interpolate(antialias=True)`, Pillow and `jax.image.resize` cut the kernel off there and normalize what is left ("cut").
Inside they agree.
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest


def _keys(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - np.abs(x))


# A kernel and half of its support.
KERNELS: dict[str, tuple[Callable, float]] = {"bicubic": (_keys, 2.0), "bilinear": (_triangle, 1.0)}
BORDERS = ("mirror", "cut")


@functools.lru_cache(maxsize=64)
def resize_matrix(full: int, size: int, kernel: str = "bicubic", border: str = "mirror", antialias: bool = True) -> Float[np.ndarray, "size full"]:
    """Weights of `size` output pixels over `full` input ones, rows of sum 1. Raises ModelError for an unknown kernel or border."""
    for value, known in ((kernel, KERNELS), (border, BORDERS)):
        if value not in known:
            raise ModelError(f"resizing knows no {value!r}; {nearest(value, known)}")
    function, half = KERNELS[kernel]
    stretch = max(full / size, 1.0) if antialias else 1.0
    centre = (np.arange(size) + 0.5) * full / size - 0.5
    reach = math.ceil(half * stretch) + 1
    taps = np.floor(centre)[:, None].astype(int) + np.arange(-reach, reach + 1)
    weights = function((taps - centre[:, None]) / stretch)
    if border == "cut":
        weights = np.where((taps >= 0) & (taps < full), weights, 0.0)
        taps = np.clip(taps, 0, full - 1)
    else:
        taps = taps % (2 * full)
        taps = np.minimum(taps, 2 * full - 1 - taps)
    matrix = np.zeros((size, full))
    np.add.at(matrix, (np.arange(size)[:, None], taps), weights / weights.sum(1, keepdims=True))
    return matrix.astype(np.float32)


def resize(
    image: Float[Array, "b h w c"], size: tuple[int, int], *, kernel: str = "bicubic", border: str = "mirror", antialias: bool = True
) -> Float[Array, "b p q c"]:
    """Images at `size`, (height, width) in pixels, in float32; values are not clipped. Arguments as of `resize_matrix`."""
    rows, columns = (resize_matrix(full, new, kernel, border, antialias) for full, new in zip(image.shape[1:3], size))
    image = image.astype(jnp.float32)
    if size[0] <= image.shape[1]:
        image = jnp.einsum("ph,bhwc->bpwc", rows, image, precision="highest")
        return jnp.einsum("qw,bpwc->bpqc", columns, image, precision="highest")
    image = jnp.einsum("qw,bhwc->bhqc", columns, image, precision="highest")
    return jnp.einsum("ph,bhqc->bpqc", rows, image, precision="highest")


bicubic = functools.partial(resize, kernel="bicubic")
