"""One bilinear warp an image for the geometry of a RandAugment layer: rotation, shears and translations as Pillow's `transform` defines them.

Two forms of one function. `gather_warp` reads the four neighbours of every source point, the definition itself, and is used on CPU and GPU.
`shear_warp` is used on TPU, where a gather of single pixels is slow: a rotation is three shears (Paeth 1986), a shear moves whole lines, and a
line is moved by selecting between copies shifted by the digits of its offset (base 4), so only slices and selects remain. Pixels travel packed,
up to four channels in one word. Compiler figures for v5e, 128 images of 224x224x3: 5.2 M predicted cycles for the shears (base 2: 5.3 M, base
8: 6.0 M; with the batch axis first and the channels unpacked about 9 M), against 2.3 M for the arithmetic of the gather form plus four gathers
of 6.4 M pixels without a price, each about 23 M by the bundles of its inner loop; a dense product with the interpolation weights is over 60 M.
The forms agree exactly for shears and translations; a rotation by three one-dimensional interpolations is slightly smoother than by one of two
dimensions. Points outside the source take the fill colour; points inside interpolate with the border repeated.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

RADIX = 4


class Motion(NamedTuple):
    """Geometry of each example; at most one field of an example differs from zero (a layer of RandAugment has one operation).

    Attributes:
      angle: counter-clockwise rotation about the image's centre, degrees.
      shear_x, shear_y: source x grows by `shear_x * y` (and y by `shear_y * x`), from the top left corner.
      move_x, move_y: offset of the source point, pixels.
    """

    angle: Float[Array, "b"]
    shear_x: Float[Array, "b"]
    shear_y: Float[Array, "b"]
    move_x: Float[Array, "b"]
    move_y: Float[Array, "b"]


class Reach(NamedTuple):
    """Largest absolute values of a Motion, static: they bound how far `shear_warp` looks. Angle in degrees, below 90; moves in pixels."""

    angle: float
    shear_x: float
    shear_y: float
    move_x: float
    move_y: float


def affine_matrix(motion: Motion, height: int, width: int) -> Float[Array, "b 2 3"]:
    """Maps the centre (x + 0.5, y + 0.5) of an output pixel to its source point, as Pillow's `Image.transform(AFFINE)` takes it."""
    angle = -jnp.radians(motion.angle)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x0, y0 = width / 2, height / 2
    first = jnp.stack([cos, sin + motion.shear_x, (1 - cos) * x0 - sin * y0 + motion.move_x], axis=-1)
    second = jnp.stack([-sin + motion.shear_y, cos, sin * x0 + (1 - cos) * y0 + motion.move_y], axis=-1)
    return jnp.stack([first, second], axis=1)


def warp(image: UInt8[Array, "b h w c"], motion: Motion, fill: tuple[int, ...], reach: Reach) -> UInt8[Array, "b h w c"]:
    """The moved images: by shears where the program is lowered for a TPU, by gathers elsewhere. `fill` is one number a channel."""
    return jax.lax.platform_dependent(
        image,
        motion,
        tpu=lambda x, m: shear_warp(x, m, fill, reach),
        default=lambda x, m: gather_warp(x, affine_matrix(m, *x.shape[1:3]), fill),
    )


def gather_warp(image: UInt8[Array, "b h w c"], matrix: Float[Array, "b 2 3"], fill: tuple[int, ...]) -> UInt8[Array, "b h w c"]:
    """Any affine map (see `affine_matrix`), bilinear, truncated to integers as Pillow does."""
    batch, height, width, channels = image.shape
    x, y, inside = _source_points(matrix, height, width)
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    part_x, part_y = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]

    def neighbour(words, dy, dx):
        at = jnp.clip(top + dy, 0, height - 1) * width + jnp.clip(left + dx, 0, width - 1)
        taken = jnp.take_along_axis(words.reshape(batch, -1), at.astype(jnp.int32).reshape(batch, -1), axis=1, mode="promise_in_bounds")
        return taken.reshape(batch, height, width)

    words = _pack(image)
    (a, b), (c, d) = [[_unpack([neighbour(word, dy, dx) for word in words], channels) for dx in (0, 1)] for dy in (0, 1)]
    upper, lower = a + part_x * (b - a), c + part_x * (d - c)
    moved = (upper + part_y * (lower - upper)).astype(jnp.uint8)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, jnp.uint8))


def shear_warp(image: UInt8[Array, "b h w c"], motion: Motion, fill: tuple[int, ...], reach: Reach) -> UInt8[Array, "b h w c"]:
    """The same motion as three passes of line shifts: x, y, x. Exact for shears and translations."""
    _, height, width, channels = image.shape
    angle = -jnp.radians(motion.angle)
    tangent, sine = jnp.tan(angle / 2), jnp.sin(angle)
    margin = math.ceil(math.tan(math.radians(reach.angle) / 2) * height / 2)
    reach_y = max(math.sin(math.radians(reach.angle)) * (width / 2 + margin), reach.shear_y * width, reach.move_y)
    reach_x = max(margin, reach.shear_x * height, reach.move_x)
    rows = jnp.arange(height)[:, None] + 0.5
    columns = jnp.arange(-margin, width + margin)[:, None] + 0.5
    turn = tangent * (rows - height / 2)
    down = -sine * (columns - width / 2) + motion.shear_y * columns + motion.move_y
    words = [word.transpose(1, 2, 0) for word in _pack(image)]  # (h, w, b): the batch lies in the lanes where it fills them
    held = [min(4, channels - 4 * i) for i in range(len(words))]

    def shift(words, offset, axis, start, count, furthest, rounding):
        """Along x the planes are turned, so that the shifted axis is always the leading one, whose slices need no realignment."""
        turned = [jnp.swapaxes(word, 0, axis) for word in words]
        moved = [_shift_lines(word, offset, start, count, math.ceil(furthest), rounding, n) for word, n in zip(turned, held)]
        return [jnp.swapaxes(word, 0, axis) for word in moved]

    words = shift(words, turn, 1, -margin, width + 2 * margin, margin, 0.5)
    words = shift(words, down, 0, 0, height, reach_y, 0.5)
    words = shift(words, turn + motion.shear_x * rows + motion.move_x, 1, margin, width, reach_x, 0.0)
    moved = _unpack([word.transpose(2, 0, 1) for word in words], channels).astype(jnp.uint8)
    *_, inside = _source_points(affine_matrix(motion, height, width), height, width)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, jnp.uint8))


def _shift_lines(words: Array, offset: Float[Array, "n b"], start: int, count: int, reach: int, rounding: float, channels: int) -> Array:
    """`out[i] = words[start + i + offset]` along the leading axis, linear between neighbours, border repeated; |offset| <= reach."""
    whole = jnp.floor(offset)
    digits = jnp.clip(whole + reach, 0, 2 * reach).astype(jnp.int32)
    places = []  # of the digits: (step, how many values the digit takes)
    step = 1
    while step < 2 * reach + 1:
        places.append((step, min(RADIX, 2 * reach // step + 1)))
        step *= RADIX
    length = count + 1 + sum((values - 1) * step for step, values in places)
    first, last = start - reach, start - reach + length
    words = jnp.pad(words, ((max(0, -first), max(0, last - words.shape[0])), (0, 0), (0, 0)), mode="edge")[max(0, first) :]
    for step, values in reversed(places):
        length -= (values - 1) * step
        digit = digits // step % RADIX
        chosen = words[:length]
        for value in range(1, values):
            chosen = jnp.where(digit == value, words[value * step : value * step + length], chosen)
        words = chosen
    part = offset - whole
    blended = [
        (a + part * (b - a) + rounding).astype(jnp.uint32) << 8 * c
        for c, (a, b) in enumerate(zip(_bytes(words[:count], channels), _bytes(words[1 : count + 1], channels)))
    ]
    return sum(blended[1:], blended[0])


def _source_points(matrix: Float[Array, "b 2 3"], height: int, width: int) -> tuple[Array, Array, Array]:
    """Source x and y of every output pixel and whether it lies inside, each (b, h, w)."""
    columns, rows = jnp.arange(width) + 0.5, (jnp.arange(height) + 0.5)[:, None]
    m = matrix[:, :, :, None, None]
    x, y = (m[:, i, 0] * columns + m[:, i, 1] * rows + m[:, i, 2] for i in (0, 1))
    return x, y, (x >= 0) & (x < width) & (y >= 0) & (y < height)


def _pack(image: UInt8[Array, "b h w c"]) -> list[Int[Array, "b h w"]]:
    """Up to four channels in one word, so that a pixel moves at once."""
    channels = [image[..., c].astype(jnp.uint32) << 8 * (c % 4) for c in range(image.shape[-1])]
    return [sum(channels[i + 1 : i + 4], channels[i]) for i in range(0, len(channels), 4)]


def _bytes(word: Array, channels: int) -> list[Array]:
    return [(word >> 8 * c & 255).astype(jnp.int32).astype(jnp.float32) for c in range(channels)]


def _unpack(words: list[Array], channels: int) -> Float[Array, "b h w c"]:
    return jnp.stack([value for i, word in enumerate(words) for value in _bytes(word, min(4, channels - 4 * i))], axis=-1)
