"""Augmentation of photographs of the retina: each transform by name, so that a policy is a tuple of names and can be calibrated one by one.

A retina has no up and no left, cameras differ in tint, light and focus, and all of that is what the transforms vary ("A ResNet is All You Need?",
Castilla et al. 2022, arXiv 2210.03180, calibrates its policy on validation data; candidates and ranges here are ours).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from jaxvision.augment.color import color_jitter
from jaxvision.augment.rows import row_keys
from jaxvision.augment.warp import gather_warp
from jaxvision.errors import ConfigError, nearest

# In the order in which they are applied.
TRANSFORMS = ("flip", "rotate", "scale", "shift", "color", "gamma", "blur", "noise", "cutout")
SCALE = (0.9, 1.1)
SHIFT = 0.05  # of the side
COLOR = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05}
GAMMA = (0.7, 1.5)
BLUR = 0.02  # largest deviation, of the side
NOISE = 0.03  # largest deviation, of pixels in 0..1
CUTOUT = (0.1, 0.3)  # side of the square, of the image's


def check_policy(policy: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of TRANSFORMS. Raises ConfigError for one that is none of them."""
    for name in policy:
        if name not in TRANSFORMS:
            raise ConfigError(f"augmentation {name!r} of fundus photographs is unknown; {nearest(name, TRANSFORMS)}")
    return tuple(name for name in TRANSFORMS if name in policy)


def augment_fundus(key: Array, image: UInt8[Array, "b s s 3"], row: Int[Array, "b"], policy: Sequence[str]) -> Float[Array, "b s s 3"]:
    """Photographs with the transforms of `policy`, pixels in 0..1.

    Args:
      row: the examples' numbers in the global batch; they choose the random numbers. A transform draws the same whatever else is in the policy.
    """
    policy = check_policy(policy)
    draw = lambda name, low, high: jax.vmap(lambda k: jax.random.uniform(k, (), minval=low, maxval=high))(
        row_keys(jax.random.fold_in(key, TRANSFORMS.index(name)), row)
    )
    if "flip" in policy:
        image = jnp.where((draw("flip", 0, 1) < 0.5)[:, None, None, None], image[:, :, ::-1], image)
    if {"flip", "rotate", "scale", "shift"} & set(policy):
        image = gather_warp(image, _motions(draw, policy, key, row, image.shape[1]), (0, 0, 0))
    if "color" in policy:
        image = color_jitter(jax.random.fold_in(key, TRANSFORMS.index("color")), image, row, **COLOR)
    pixels = jnp.clip(image.astype(jnp.float32) / 255, 0, 1)
    if "gamma" in policy:
        pixels = jnp.maximum(pixels, 1e-6) ** jnp.exp(draw("gamma", *(jnp.log(jnp.asarray(bound)) for bound in GAMMA)))[:, None, None, None]
    if "blur" in policy:
        pixels = gaussian_blur(pixels, draw("blur", 0.0, BLUR * image.shape[1]), 1 + round(2 * BLUR * image.shape[1]))
    if "noise" in policy:
        deviation = draw("noise", 0.0, NOISE)[:, None, None, None]
        keys = row_keys(jax.random.fold_in(key, len(TRANSFORMS)), row)
        pixels = pixels + deviation * jax.vmap(lambda k: jax.random.normal(k, pixels.shape[1:]))(keys)
    if "cutout" in policy:
        pixels = jnp.where(_hole(key, row, image.shape[1])[..., None], 0.0, pixels)
    return jnp.clip(pixels, 0, 1)


def _motions(draw, policy: tuple[str, ...], key: Array, row: Array, side: int) -> Float[Array, "b 2 3"]:
    """One affine map of output to source points for all geometry; a vertical flip is a rotation by 180 degrees of a mirrored image."""
    ones = jnp.ones(row.shape)
    angle = draw("rotate", -jnp.pi, jnp.pi) if "rotate" in policy else 0 * ones
    if "flip" in policy:
        keys = row_keys(jax.random.fold_in(key, len(TRANSFORMS) + 1), row)
        angle = angle + jnp.pi * jax.vmap(lambda k: jax.random.bernoulli(k, 0.5))(keys)
    zoom = draw("scale", *SCALE) if "scale" in policy else ones
    moves = jnp.zeros((*row.shape, 2))
    if "shift" in policy:
        keys = row_keys(jax.random.fold_in(key, TRANSFORMS.index("shift")), row)
        moves = jax.vmap(lambda k: jax.random.uniform(k, (2,), minval=-SHIFT * side, maxval=SHIFT * side))(keys)
    cos, sin, centre = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom, side / 2
    first = jnp.stack([cos, sin, (1 - cos - sin) * centre + moves[:, 0]], -1)
    second = jnp.stack([-sin, cos, (1 + sin - cos) * centre + moves[:, 1]], -1)
    return jnp.stack([first, second], 1)


def gaussian_blur(image: Float[Array, "b h w c"], deviation: Float[Array, "b"], radius: int) -> Float[Array, "b h w c"]:
    """Each image blurred by its own Gaussian, cut off at `radius` pixels; borders are repeated."""
    offset = jnp.arange(-radius, radius + 1)
    weight = jnp.exp(-0.5 * (offset / jnp.maximum(deviation, 1e-3)[:, None]) ** 2)
    weight = weight / weight.sum(1, keepdims=True)
    for axis in (1, 2):
        size = image.shape[axis]
        padded = jnp.pad(image, [(0, 0), *((radius, radius) if a == axis else (0, 0) for a in (1, 2)), (0, 0)], mode="edge")
        shifted = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1))
        image = sum(weight[:, i, None, None, None] * part for i, part in enumerate(shifted))
    return image


def _hole(key: Array, row: Array, side: int) -> Array:
    keys = row_keys(jax.random.fold_in(key, TRANSFORMS.index("cutout")), row)
    y, x, size = jax.vmap(lambda k: jax.random.uniform(k, (3,)))(keys).T
    half = (CUTOUT[0] + (CUTOUT[1] - CUTOUT[0]) * size)[:, None, None] * side / 2
    place = jnp.arange(side) + 0.5
    return (jnp.abs(place[:, None] - (y * side)[:, None, None]) < half) & (jnp.abs(place - (x * side)[:, None, None]) < half)
