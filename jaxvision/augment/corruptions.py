"""Common corruptions (Hendrycks and Dietterich 2019, arXiv 1903.12261): how a network is tested for robustness, never how it is trained.

Eleven of the fifteen of ImageNet-C, each at severities 1 to 5, as pure functions of (key, image). Left out: frost (it overlays six photographs), snow
(the same effort for a layer of noise), glass blur (swaps pixels one after the other) and the elastic transformation.

Two tables of strengths: sides of at least 64 pixels take ImageNet-C's, with lengths in proportion to 224 pixels; smaller ones take CIFAR-10-C's, with
lengths as they are. So a digit of 8 pixels is blurred by at most 1.5 pixels.

Where we differ: images come back as pixels and are not stored as JPEG (ImageNet-C was); zoom blur scales about the exact centre; JPEG is its lossy
part (colour planes, cosine transform, quantization), within a few grey levels of libjpeg's integer arithmetic; random numbers belong to an
example's row. Figures are therefore for comparing runs with one another, not for the published mCE.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxvision.augment.jpeg import jpeg as compressed
from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError, nearest

SMALL_SIDE, PUBLISHED_SIDE = 64, 224


def _like_normal(key: Array, row: Int[Array, "b"], image: Array) -> Array:
    return jax.vmap(lambda k: jax.random.normal(k, image.shape[1:]))(row_keys(key, row))


def gaussian_noise(key, row, image, scale, deviation):
    return image + deviation * _like_normal(key, row, image)


def shot_noise(key, row, image, scale, photons):
    return jax.vmap(lambda k, x: jax.random.poisson(k, x * photons))(row_keys(key, row), image) / photons


def impulse_noise(key, row, image, scale, amount):
    draw = jax.vmap(lambda k: jax.random.uniform(k, image.shape[1:]))(row_keys(key, row))
    return jnp.where(draw < amount / 2, 0.0, jnp.where(draw > 1 - amount / 2, 1.0, image))


def disk(radius: float, blur: float) -> Float[np.ndarray, "k k"]:
    """A disk of pixels whose centres are within `radius`, smoothed by a Gaussian of 3x3 pixels (5x5 from a radius of 8 on); sums to 1."""
    reach = math.ceil(radius)
    axis = np.arange(-reach, reach + 1)
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float64)
    half = 1 if radius <= 8 else 2
    line = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * blur**2))
    smoothed = np.zeros((2 * (reach + half) + 1,) * 2)
    for i, j in np.ndindex(len(line), len(line)):
        smoothed[i : i + len(axis), j : j + len(axis)] += line[i] * line[j] * inside
    return (smoothed / smoothed.sum()).astype(np.float32)


def defocus_blur(key, row, image, scale, radius, blur):
    kernel = disk(radius * scale, blur)
    half = len(kernel) // 2
    # As rows of one channel; the border is mirrored as often as a small image needs.
    planes = jnp.moveaxis(image, -1, 1).reshape(-1, *image.shape[1:3])
    rows, columns = (_mirrored(side, half) for side in image.shape[1:3])
    planes = planes[:, rows][:, :, columns][..., None]
    blurred = jax.lax.conv_general_dilated(planes, jnp.asarray(kernel)[..., None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.moveaxis(blurred.reshape(image.shape[0], -1, *image.shape[1:3]), 1, -1)


def _mirrored(side: int, margin: int) -> np.ndarray:
    """Indices of a line continued by `margin` on both sides, mirrored at its first and last pixel."""
    if side == 1:
        return np.zeros(1 + 2 * margin, int)
    at = np.abs(np.arange(-margin, side + margin)) % (2 * side - 2)
    return np.minimum(at, 2 * side - 2 - at)


def motion_blur(key, row, image, scale, radius, deviation):
    """The camera moved along a line within 45 degrees of the horizontal, and slowed down: one half of a Gaussian."""
    height, width = image.shape[1:3]
    steps = np.arange(2 * math.ceil(radius * scale) + 1)
    weight = np.exp(-(steps**2) / (2 * (deviation * scale) ** 2))
    angle = jax.vmap(lambda k: jax.random.uniform(k, (), minval=-math.pi / 4, maxval=math.pi / 4))(row_keys(key, row))

    def blur(x, a):
        total = jnp.zeros_like(x)
        for step, w in zip(steps, weight / weight.sum()):
            down, right = jnp.round(step * jnp.sin(a)).astype(jnp.int32), jnp.round(step * jnp.cos(a)).astype(jnp.int32)
            rows, columns = jnp.clip(jnp.arange(height) + down, 0, height - 1), jnp.clip(jnp.arange(width) + right, 0, width - 1)
            total += w * x[rows][:, columns]
        return total

    return jax.vmap(blur)(image, angle)


def zoom_matrix(side: int, zoom: float) -> Float[np.ndarray, "n n"]:
    """A line enlarged about its centre, linearly interpolated, as a matrix."""
    at = np.clip((np.arange(side) - (side - 1) / 2) / zoom + (side - 1) / 2, 0, side - 1)
    low = np.minimum(at.astype(int), max(side - 2, 0))
    matrix = np.zeros((side, side), np.float32)
    matrix[np.arange(side), low] += 1 - (at - low)
    matrix[np.arange(side), np.minimum(low + 1, side - 1)] += at - low
    return matrix


def zoom_blur(key, row, image, scale, stop, step):
    height, width = image.shape[1:3]
    zooms = np.arange(1, stop, step)
    blurred = sum(jnp.einsum("ph,bhwc,qw->bpqc", zoom_matrix(height, z), image, zoom_matrix(width, z)) for z in zooms)
    return (image + blurred) / (len(zooms) + 1)


def plasma(key: Array, side: int, decay: float) -> Float[Array, "n n"]:
    """Clouds between 0 and 1: random midpoint displacement (diamonds and squares) on a torus; each halving divides the displacement by decay^2."""
    size = 2 ** math.ceil(math.log2(max(side, 2)))
    heights, amplitude = jnp.zeros((1, 1)), 1.0
    while (count := len(heights)) < size:
        key, *keys = jax.random.split(key, 4)
        shake = lambda k: amplitude * jax.random.uniform(k, (count, count), minval=-1.0)
        right, below = jnp.roll(heights, -1, 1), jnp.roll(heights, -1, 0)
        centre = (heights + right + below + jnp.roll(right, -1, 0)) / 4 + shake(keys[0])
        beside = (heights + right + centre + jnp.roll(centre, 1, 0)) / 4 + shake(keys[1])
        under = (heights + below + centre + jnp.roll(centre, 1, 1)) / 4 + shake(keys[2])
        quads = jnp.stack([jnp.stack([heights, beside], -1), jnp.stack([under, centre], -1)], 1)
        heights, amplitude = quads.reshape(2 * count, 2 * count), amplitude / decay**2
    return (heights - heights.min()) / jnp.maximum(heights.max() - heights.min(), 1e-9)


def fog(key, row, image, scale, amount, decay):
    height, width = image.shape[1:3]
    clouds = jax.vmap(lambda k: plasma(k, max(height, width), decay)[:height, :width, None])(row_keys(key, row))
    brightest = image.max((1, 2, 3), keepdims=True)
    return (image + amount * clouds) * brightest / (brightest + amount)


def brightness(key, row, image, scale, amount):
    """Adds to the value of hue, saturation and value; black becomes grey."""
    value = image.max(-1, keepdims=True)
    brighter = jnp.clip(value + amount, 0, 1)
    return jnp.where(value > 0, image * brighter / jnp.maximum(value, 1e-9), brighter)


def contrast(key, row, image, scale, factor):
    mean = image.mean((1, 2), keepdims=True)
    return (image - mean) * factor + mean


def box_matrix(side: int, new: int) -> Float[np.ndarray, "new side"]:
    """Pillow's BOX filter along a line, as a matrix: means of whole pixels when it shrinks, nearest pixels when it grows."""
    ratio = side / new
    support = max(ratio, 1.0) / 2
    matrix = np.zeros((new, side), np.float32)
    for i in range(new):
        centre = (i + 0.5) * ratio
        inside = np.arange(max(0, int(centre - support + 0.5)), min(side, int(centre + support + 0.5)))
        distance = (inside - centre + 0.5) / max(ratio, 1.0)
        chosen = inside[(distance > -0.5) & (distance <= 0.5)]
        matrix[i, chosen] = 1 / len(chosen)
    return matrix


def pixelate(key, row, image, scale, share):
    across = lambda side: box_matrix(max(1, int(side * share)), side) @ box_matrix(side, max(1, int(side * share)))
    return jnp.einsum("ph,bhwc,qw->bpqc", across(image.shape[1]), image, across(image.shape[2]))


def jpeg(key, row, image, scale, quality):
    return compressed(image, quality)


class Corruption(NamedTuple):
    """A function of (key, row, image in 0..1, scale of lengths, *strength), and its strengths at severities 1 to 5."""

    function: Callable
    large: tuple[tuple[float, ...], ...]
    small: tuple[tuple[float, ...], ...]


def _each(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, _each(0.08, 0.12, 0.18, 0.26, 0.38), _each(0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corruption(shot_noise, _each(60, 25, 12, 5, 3), _each(500, 250, 100, 75, 50)),
    "impulse_noise": Corruption(impulse_noise, _each(0.03, 0.06, 0.09, 0.17, 0.27), _each(0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Corruption(
        defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    ),
    "motion_blur": Corruption(motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": Corruption(
        zoom_blur,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ),
    "fog": Corruption(fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)), ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption(brightness, _each(0.1, 0.2, 0.3, 0.4, 0.5), _each(0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(contrast, _each(0.4, 0.3, 0.2, 0.1, 0.05), _each(0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": Corruption(pixelate, _each(0.6, 0.5, 0.4, 0.3, 0.25), _each(0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": Corruption(jpeg, _each(25, 18, 15, 10, 7), _each(80, 65, 58, 50, 40)),
}


@functools.partial(jax.jit, static_argnames=("name", "severity"))
def corrupt(key: Array, image: UInt8[Array, "b h w c"], row: Int[Array, "b"], *, name: str, severity: int) -> UInt8[Array, "b h w c"]:
    """Images under a corruption of CORRUPTIONS at a severity from 1 to 5; `row`, the examples' numbers, chooses the random numbers.

    Raises ConfigError for an unknown corruption or severity, and for images that are not uint8.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f"there is no corruption {name!r}; {nearest(name, CORRUPTIONS)}")
    if severity not in range(1, 6):
        raise ConfigError(f"the severity of a corruption is 1 to 5, got {severity!r}")
    if image.dtype != jnp.uint8:
        raise ConfigError(f"corruptions are defined for uint8 images, not {image.dtype}")
    side, chosen = min(image.shape[1:3]), CORRUPTIONS[name]
    small = side < SMALL_SIDE
    strength = (chosen.small if small else chosen.large)[severity - 1]
    result = chosen.function(key, row, image.astype(jnp.float32) / 255, 1.0 if small else side / PUBLISHED_SIDE, *strength)
    # Truncated, as the published arrays are; the small addition keeps whole levels whole.
    return jnp.floor(jnp.clip(result, 0, 1) * 255 + 1e-3).astype(jnp.uint8)
