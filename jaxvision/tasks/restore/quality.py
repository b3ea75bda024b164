"""PSNR and SSIM as the field reports them, one number a picture; and the Frechet distance between two sets of features.

Pictures are in 0..1 and are compared as files would be: clipped and rounded to 8 bits, `border` pixels left out on every side (super-resolution: as
many as the scale), on luma (BT.601) or on all channels.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.augment.degrade import quantize
from jaxvision.augment.ycbcr import luma
from jaxvision.errors import ConfigError

WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
# A perfect picture has no finite PSNR; this is where it is cut, so that means stay finite.
HIGHEST = 100.0


def comparable(image: Float[Array, "b h w c"], *, border: int = 0, luma_only: bool = False, rounded: bool = True) -> Float[Array, "b p q d"]:
    """What is compared. Luma is taken from the rounded picture and not rounded again. Raises ConfigError when the border leaves nothing."""
    if min(image.shape[1:3]) <= 2 * border:
        raise ConfigError(f"a border of {border} pixels leaves nothing of {image.shape[1]} x {image.shape[2]} pixels to compare")
    image = quantize(image) if rounded else image
    image = luma(image) if luma_only else image
    return image[:, border : image.shape[1] - border, border : image.shape[2] - border]


def psnr(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], peak: float = 1.0) -> Float[Array, "b"]:
    """10 log10(peak^2 / mean squared error) in dB, at most HIGHEST."""
    error = jnp.square(a - b).mean((1, 2, 3))
    return jnp.minimum(10 * jnp.log10(peak**2 / jnp.maximum(error, 1e-30)), HIGHEST)


def ssim(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], peak: float = 1.0) -> Float[Array, "b"]:
    """Mean structural similarity (Wang et al. 2004): Gaussian windows of 11x11 pixels wholly inside, population covariances, mean over channels.

    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`. Raises ConfigError below 11 pixels.
    """
    if min(a.shape[1:3]) < WINDOW:
        raise ConfigError(f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels, got {a.shape[1]} x {a.shape[2]}")
    # Variances are small differences of squares: about a centre near zero float32 keeps more of them.
    shift = 0.5 * (a.mean((1, 2, 3), keepdims=True) + b.mean((1, 2, 3), keepdims=True))
    x, y = a - shift, b - shift
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + shift, mean_y + shift
    c1, c2 = C1 * peak**2, C2 * peak**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (above / below).mean((1, 2, 3))


def _smooth(x: Array) -> Array:
    offset = np.arange(WINDOW) - WINDOW // 2
    weight = np.exp(-0.5 * (offset / DEVIATION) ** 2)
    weight = (weight / weight.sum()).astype(np.float32)
    for axis in (1, 2):
        valid = x.shape[axis] - WINDOW + 1
        x = sum(w * jnp.take(x, jnp.arange(i, i + valid), axis=axis) for i, w in enumerate(weight))
    return x


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """|mean a - mean b|^2 + trace(A + B - 2 (A B)^1/2) of two sets of features (FID where they are Inception's pool features; Heusel et al. 2017).

    On the host, in float64. Raises ConfigError for fewer than two examples.
    """
    if min(len(a), len(b)) < 2:
        raise ConfigError(f"a Frechet distance needs at least 2 examples a set, got {len(a)} and {len(b)}")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    gap = a.mean(0) - b.mean(0)
    one, two = np.cov(a, rowvar=False).reshape(a.shape[1], -1), np.cov(b, rowvar=False).reshape(b.shape[1], -1)
    # trace (A B)^1/2 = trace (A^1/2 B A^1/2)^1/2, which is symmetric and has no negative eigenvalues.
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ two @ root), 0)).sum()
    return float(max(gap @ gap + np.trace(one) + np.trace(two) - 2 * cross, 0.0))
