"""The two-stage chain of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833): what happens to a picture on its way through cameras, editors and the web.

Each stage blurs, resizes by a random factor, adds noise and compresses; at the end a ringing filter and a last compression come in either order.
Probabilities and ranges are the published ones, as tables below.

Where we differ: shapes are static, so an image of a random size lies in the corner of a canvas of the largest one, its last pixels repeated;
resizing draws between bilinear and bicubic with antialiasing (the published code also has area averaging, and does not antialias); Poisson noise is
its Gaussian limit; JPEG averages chroma as in augment/jpeg.py.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvision.augment.jpeg import jpeg
from jaxvision.augment.rows import row_keys

RADIUS = 10  # kernels have 7, 9, …, 21 pixels a side


class Stage(NamedTuple):
    """One passage. Factors and strengths are (lowest, highest); probabilities are shares."""

    blur: float  # probability of blurring at all
    deviation: tuple[float, float]
    ringing: float  # probability that the kernel is a low-pass filter
    resize: tuple[float, float, float]  # probabilities of enlarging, shrinking, neither
    factor: tuple[float, float]
    gaussian: float  # probability of Gaussian instead of Poisson noise
    grey: float  # probability that all channels have the same noise
    noise: tuple[float, float]
    poisson: tuple[float, float]
    quality: tuple[float, float]


FIRST = Stage(1.0, (0.2, 3.0), 0.1, (0.2, 0.7, 0.1), (0.15, 1.5), 0.5, 0.4, (1 / 255, 30 / 255), (0.05, 3.0), (30, 95))
SECOND = Stage(0.8, (0.2, 1.5), 0.1, (0.3, 0.4, 0.3), (0.3, 1.2), 0.5, 0.4, (1 / 255, 25 / 255), (0.05, 2.5), (30, 95))
LAST_RINGING = 0.8
# Shares of isotropic and anisotropic kernels, each Gaussian, generalized Gaussian, plateau-shaped.
KINDS = np.asarray([0.45, 0.25, 0.12, 0.03, 0.12, 0.03])
GENERAL, PLATEAU = (0.5, 4.0), (1.0, 2.0)


def _between(key: Array, low: float, high: float) -> Array:
    return jax.random.uniform(key, (), minval=low, maxval=high)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(-RADIUS, RADIUS + 1, dtype=np.float32)
    return np.meshgrid(axis, axis, indexing="ij")


def _normalized(kernel: Array, size: Array) -> Array:
    """`kernel` inside its own side of `size` pixels, of sum 1."""
    y, x = _grid()
    kernel = jnp.where((jnp.abs(y) <= size // 2) & (jnp.abs(x) <= size // 2), kernel, 0.0)
    return kernel / kernel.sum()


def ringing_kernel(cutoff: Array, size: Array) -> Float[Array, "k k"]:
    """The circular low-pass filter of this cutoff in radians: cutoff J1(cutoff r) / (2 pi r)."""
    y, x = _grid()
    r = np.sqrt(y**2 + x**2)
    at = cutoff * r
    value = jnp.where(r == 0, cutoff**2 / (4 * jnp.pi), cutoff * _bessel_j1(at) / (2 * jnp.pi * np.maximum(r, 1e-6)))
    return _normalized(value, size)


def _bessel_j1(x: Array) -> Array:
    """Bessel's function of the first kind and order 1, by its integral over 64 nodes: exact to float32 for x below 50."""
    node = (np.arange(64) + 0.5) * np.pi / 64
    return jnp.cos(node - x[..., None] * np.sin(node)).mean(-1)


def gaussian_kernel(key: Array, deviation: tuple[float, float], size: Array) -> Float[Array, "k k"]:
    """A random member of the six kinds."""
    kind_key, first, second, angle, shape = jax.random.split(key, 5)
    kind = jax.random.choice(kind_key, len(KINDS), p=jnp.asarray(KINDS / KINDS.sum(), jnp.float32))
    one, two = _between(first, *deviation), _between(second, *deviation)
    isotropic = kind % 2 == 0
    two, turn = jnp.where(isotropic, one, two), jnp.where(isotropic, 0.0, _between(angle, -jnp.pi, jnp.pi))
    y, x = _grid()
    along, across = x * jnp.cos(turn) + y * jnp.sin(turn), -x * jnp.sin(turn) + y * jnp.cos(turn)
    square = (along / one) ** 2 + (across / two) ** 2
    general, plateau = jax.random.split(shape)
    power = jnp.where(kind // 2 == 1, _both_sides(general, GENERAL), jnp.where(kind // 2 == 2, _both_sides(plateau, PLATEAU), 1.0))
    bell = jnp.exp(-0.5 * jnp.maximum(square, 1e-12) ** power)
    flat = 1 / (jnp.maximum(square, 1e-12) ** power + 1)
    return _normalized(jnp.where(kind // 2 == 2, flat, bell), size)


def _both_sides(key: Array, limits: tuple[float, float]) -> Array:
    """Below 1 or above it with equal chances, uniform on each side."""
    side, place = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(side), _between(place, limits[0], 1.0), _between(place, 1.0, limits[1]))


def filter_each(image: Float[Array, "b h w c"], kernel: Float[Array, "b k k"]) -> Float[Array, "b h w c"]:
    """Each image filtered by its own kernel, mirrored beyond the border; through the Fourier transform, whose cost does not grow with the kernel."""
    radius = kernel.shape[-1] // 2
    padded = jnp.pad(image, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    size = padded.shape[1:3]
    spectrum = jnp.fft.rfft2(padded, axes=(1, 2)) * jnp.fft.rfft2(kernel, s=size)[..., None]
    return jnp.fft.irfft2(spectrum, s=size, axes=(1, 2))[:, 2 * radius :, 2 * radius :]


def _side_matrix(full: int, canvas: int, old: Array, new: Array, cubic: Array) -> Float[Array, "canvas full"]:
    """From `old` pixels in the corner of a line of `full` to `new` in the corner of `canvas`; places beyond `new` repeat its last pixel."""
    place = jnp.minimum(jnp.arange(canvas), new - 1)
    stretch = jnp.maximum(old / new, 1.0)
    distance = jnp.abs((jnp.arange(full) - ((place + 0.5) * old / new - 0.5)[:, None]) / stretch)
    near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    keys = jnp.where(distance <= 1, near, jnp.where(distance <= 2, far, 0.0))
    weight = jnp.where(cubic, keys, jnp.maximum(0.0, 1 - distance))
    weight = jnp.where(jnp.arange(full) < old, weight, 0.0)
    return weight / weight.sum(1, keepdims=True)


def resize_each(
    image: Float[Array, "b h w c"], old: Int[Array, "b 2"], new: Int[Array, "b 2"], cubic: Array, canvas: tuple[int, int]
) -> Float[Array, "b p q c"]:
    """Each image's `old` rows and columns resized to `new` ones, in the corner of a canvas."""
    rows = jax.vmap(lambda o, n, c: _side_matrix(image.shape[1], canvas[0], o, n, c))(old[:, 0], new[:, 0], cubic)
    columns = jax.vmap(lambda o, n, c: _side_matrix(image.shape[2], canvas[1], o, n, c))(old[:, 1], new[:, 1], cubic)
    return jnp.einsum("bqw,bpwc->bpqc", columns, jnp.einsum("bph,bhwc->bpwc", rows, image))


def _kernel(key: Array, stage: Stage) -> Float[Array, "k k"]:
    size_key, kind, cutoff, gaussian, whether = jax.random.split(key, 5)
    size = 7 + 2 * jax.random.randint(size_key, (), 0, 8)
    # Small kernels cannot hold low cutoffs.
    ringing = ringing_kernel(_between(cutoff, jnp.where(size < 13, jnp.pi / 3, jnp.pi / 5), jnp.pi), size)
    kernel = jnp.where(jax.random.bernoulli(kind, stage.ringing), ringing, gaussian_kernel(gaussian, stage.deviation, size))
    return jnp.where(jax.random.bernoulli(whether, stage.blur), kernel, _impulse())


def _impulse() -> np.ndarray:
    impulse = np.zeros((2 * RADIUS + 1,) * 2, np.float32)
    impulse[RADIUS, RADIUS] = 1
    return impulse


def _factor(key: Array, stage: Stage) -> Array:
    kind, place = jax.random.split(key)
    kind = jax.random.choice(kind, 3, p=jnp.asarray(stage.resize))
    return jnp.stack([_between(place, 1.0, stage.factor[1]), _between(place, stage.factor[0], 1.0), jnp.float32(1.0)])[kind]


def _noise(key: Array, image: Float[Array, "h w c"], stage: Stage) -> Float[Array, "h w c"]:
    kind, grey, strength, draw = jax.random.split(key, 4)
    normal = jax.random.normal(draw, image.shape)
    same = jax.random.bernoulli(grey, stage.grey)
    normal = jnp.where(same, normal[..., :1], normal)
    level = jnp.where(same, image.mean(-1, keepdims=True), image)
    gaussian = _between(strength, *stage.noise) * normal
    # Photon noise of 256 levels: the variance is the brightness over the number of levels.
    poisson = _between(strength, *stage.poisson) * jnp.sqrt(jnp.clip(level, 0, 1) / 256) * normal
    return jnp.clip(image + jnp.where(jax.random.bernoulli(kind, stage.gaussian), gaussian, poisson), 0, 1)


def real_world(key: Array, image: Float[Array, "b h w c"], row: Int[Array, "b"], scale: int) -> Float[Array, "b p q c"]:
    """Pictures in 0..1, damaged and smaller by `scale`, each with its own draws."""
    draws = lambda number, function: jax.vmap(function)(row_keys(jax.random.fold_in(key, number), row))
    height, width = image.shape[1:3]
    final = (height // scale, width // scale)
    old = jnp.broadcast_to(jnp.asarray((height, width)), (len(image), 2))
    for number, stage in enumerate((FIRST, SECOND)):
        image = filter_each(image, draws(10 * number, functools.partial(_kernel, stage=stage)))
        base = (height, width) if number == 0 else final  # the second factor is relative to the final size
        canvas = tuple(-(-int(side * stage.factor[1]) // 8) * 8 for side in base)
        factor = draws(10 * number + 1, functools.partial(_factor, stage=stage))
        new = jnp.clip(jnp.round(jnp.asarray(base) * factor[:, None]).astype(jnp.int32), 1, jnp.asarray(canvas))
        image = resize_each(image, old, new, draws(10 * number + 2, jax.random.bernoulli), canvas)
        keys = row_keys(jax.random.fold_in(key, 10 * number + 3), row)
        image, old = jax.vmap(functools.partial(_noise, stage=stage))(keys, jnp.clip(image, 0, 1)), new
        if number == 0:
            image = jnp.clip(jpeg(image, _quality(draws, 4, stage)), 0, 1)
    quality = _quality(draws, 14, SECOND)
    ringing = draws(20, _last_kernel)
    cubic = draws(21, jax.random.bernoulli)
    to_size = lambda image, old: resize_each(image, old, jnp.broadcast_to(jnp.asarray(final), old.shape), cubic, final)
    # Ringing, then compression of the final picture; or compression of the intermediate one, then ringing.
    small = jnp.clip(filter_each(to_size(image, old), ringing), 0, 1)
    one = jpeg(small, quality)
    other = filter_each(to_size(jnp.clip(jpeg(image, quality), 0, 1), old), ringing)
    first = draws(22, jax.random.bernoulli)[:, None, None, None]
    return jnp.clip(jnp.where(first, one, other), 0, 1)


def _quality(draws, number: int, stage: Stage) -> Array:
    return jnp.round(draws(number, lambda k: _between(k, *stage.quality)))


def _last_kernel(key: Array) -> Float[Array, "k k"]:
    size, cutoff, whether = jax.random.split(key, 3)
    kernel = ringing_kernel(_between(cutoff, jnp.pi / 3, jnp.pi), 7 + 2 * jax.random.randint(size, (), 0, 8))
    return jnp.where(jax.random.bernoulli(whether, LAST_RINGING), kernel, _impulse())
