"""EfficientTrain's low-frequency crop (Wang et al. 2023, arXiv 2211.09703, section 4.1): early training sees only low frequencies, at a small size.

The centre of an image's Fourier spectrum is cut out and transformed back, so the kept frequencies are exactly those of the image, where a
resize would fold higher ones into them. The map is linear and fixed: `Re(A x A^T)` with a complex A, here two float32 matrix products.
It belongs after normalizing and erasing and before mixup and CutMix. Different from the public code: an odd size is an error, not rounded down.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from jaxvision.errors import ConfigError


@functools.cache
def low_frequency_matrix(size: int, full: int) -> Complex[np.ndarray, "size full"]:
    """`A[j, n] = 1/full * sum_{k=-size/2}^{size/2-1} exp(2 pi i k (j/size - n/full))`: forward transform, crop, inverse transform, mean kept."""
    k, j, n = np.arange(-size // 2, size // 2), np.arange(size)[:, None, None], np.arange(full)[:, None]
    return np.exp(2j * np.pi * k * (j / size - n / full)).sum(axis=-1) / full


def low_frequency_crop(x: Float[Array, "b h w c"], size: int | tuple[int, int]) -> Float[Array, "b p q c"]:
    """The images of `size` pixels that have the lowest frequencies (-size/2 .. size/2-1 an axis) of `x`; float32, without gradient.

    The real part is taken once, at the end: the imaginary parts of the two axes meet on the line of frequency -size/2.

    Raises:
      ConfigError: when a size is odd, not positive or larger than the image.
    """
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    full = x.shape[1:3]
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    if sizes == full:
        return x
    if any(small % 2 or not 0 < small <= large for small, large in zip(sizes, full)):
        raise ConfigError(f"low-frequency size {sizes} must be even, positive and at most the image's {full}")
    rows, columns = (low_frequency_matrix(small, large) for small, large in zip(sizes, full))
    rows = jnp.asarray(np.stack([rows.real, rows.imag]), jnp.float32)
    columns = jnp.asarray(np.stack([columns.real, -columns.imag]), jnp.float32)
    half = jnp.einsum("rph,bhwc->brpwc", rows, x, precision="highest")
    return jnp.einsum("rqw,brpwc->bpqc", columns, half, precision="highest")
