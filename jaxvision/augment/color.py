"""Pillow's colour operations on whole batches, as arithmetic instead of look-up tables, and torchvision's colour jitter.

The operations of `ImageOps` and `ImageEnhance` take and return float32 images that hold the integers 0..255, so that a chain of them is one
fused loop over the pixels; arguments are one number an example. All of them are per-channel functions of the pixel value except `color`
(a blend with the grey pixel) and `sharpness` (a blend with a 3x3 mean). Only `equalize` is not arithmetic of few parameters. Its 256-entry table
is applied by a gather on CPU and GPU; on TPU histogram and table are products with one-hot vectors of the upper and lower four bits. Compiler
figures for v5e, 32 images of 224x224x3: histogram 0.27 M predicted cycles (by a scatter 3.0 M besides its own loop, by 256 comparisons 12.3 M),
table 1.1 M (by a gather 3.2 M besides its own loop, by 256 comparisons 12.6 M).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision.augment.rows import row_keys

Images = Float[Array, "b h w c"]
PerExample = Float[Array, "b"]


def _column(argument: PerExample) -> Float[Array, "b 1 1 1"]:
    return jnp.reshape(jnp.asarray(argument, jnp.float32), (-1, 1, 1, 1))


def grey(image: Images) -> Float[Array, "b h w 1"]:
    """Luma as Pillow's conversion to "L" (ITU-R 601-2 in 16-bit fixed point, rounded); one channel is grey already, other counts are averaged."""
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        return jnp.floor(jnp.mean(image, axis=-1, keepdims=True) + 0.5)
    red, green, blue = (image[..., c : c + 1] for c in range(3))
    return jnp.floor((red * 19595 + green * 38470 + blue * 7471 + 32768) * (1 / 65536))  # every term and sum is an integer below 2**24: exact


def mean_grey(image: Images) -> Float[Array, "b 1 1 1"]:
    """The mean luma of an image, rounded: what `contrast` blends with."""
    return jnp.floor(jnp.mean(grey(image), axis=(1, 2, 3), keepdims=True) + 0.5)


def smooth(image: Images) -> Images:
    """Pillow's SMOOTH filter, (1 1 1; 1 5 1; 1 1 1)/13 rounded, with the border kept: what `sharpness` blends with."""
    if min(image.shape[1:3]) < 3:
        return image
    height, width = image.shape[1:3]
    rows = image[:, : height - 2] + image[:, 1 : height - 1] + image[:, 2:]
    square = rows[:, :, : width - 2] + rows[:, :, 1 : width - 1] + rows[:, :, 2:]
    inner = jnp.floor((square + 4 * image[:, 1:-1, 1:-1]) / 13 + 0.5)
    inner = jnp.pad(inner, ((0, 0), (1, 1), (1, 1), (0, 0)))
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    return jnp.where((row > 0) & (row < height - 1) & (column > 0) & (column < width - 1), inner, image)


def blend(degenerate: Array, image: Images, factor: PerExample) -> Images:
    """Pillow's `Image.blend`: 0 gives `degenerate`, 1 the image, more goes beyond it; clipped and truncated to integers."""
    return jnp.floor(jnp.clip(degenerate + _column(factor) * (image - degenerate), 0, 255))


def brightness(image: Images, factor: PerExample) -> Images:
    """`ImageEnhance.Brightness`: a blend with black."""
    return blend(jnp.zeros_like(image), image, factor)


def contrast(image: Images, factor: PerExample) -> Images:
    """`ImageEnhance.Contrast`: a blend with the mean luma."""
    return blend(mean_grey(image), image, factor)


def color(image: Images, factor: PerExample) -> Images:
    """`ImageEnhance.Color`: a blend with the grey image; images of one channel stay as they are."""
    return blend(grey(image), image, factor)


def sharpness(image: Images, factor: PerExample) -> Images:
    """`ImageEnhance.Sharpness`: a blend with the smoothed image."""
    return blend(smooth(image), image, factor)


def invert(image: Images) -> Images:
    """`ImageOps.invert`."""
    return 255 - image


def posterize(image: Images, bits: PerExample) -> Images:
    """`ImageOps.posterize`: keeps the upper `bits` (0..8) of each value."""
    dropped = 8 - _column(bits).astype(jnp.int32)
    return (image.astype(jnp.int32) >> dropped << dropped).astype(jnp.float32)


def solarize(image: Images, threshold: PerExample) -> Images:
    """`ImageOps.solarize`: inverts values of at least `threshold` (0..256)."""
    return jnp.where(image < _column(threshold), image, 255 - image)


def solarize_add(image: Images, add: PerExample, threshold: float = 128) -> Images:
    """Adds `add` to values below `threshold`, at most to 255 (AutoAugment's SolarizeAdd)."""
    return jnp.where(image < threshold, jnp.minimum(image + _column(add), 255), image)


def autocontrast(image: Images) -> Images:
    """`ImageOps.autocontrast` without cutoff: each channel's range is stretched to 0..255; a constant channel stays."""
    low, high = image.min(axis=(1, 2), keepdims=True), image.max(axis=(1, 2), keepdims=True)
    span = high - low
    # Quotients of integers lie on a whole number or 1/255 beside it, so the small term only mends a reciprocal that came out too low.
    stretched = jnp.floor((image - low) * 255 / jnp.maximum(span, 1) + 1e-3)
    return jnp.where(span > 0, stretched, image)


def equalize(image: Images) -> Images:
    """`ImageOps.equalize`: each channel's values are spread so that their histogram is as even as a table allows."""

    def by_index(image):
        values = image.astype(jnp.int32)
        channel = jnp.arange(image.shape[-1])
        count = jax.vmap(lambda x: jnp.zeros((image.shape[-1], 256), jnp.int32).at[channel, x].add(1))(values)
        return jax.vmap(lambda x, table: table[channel, x])(values, equalize_table(count))

    return jax.lax.platform_dependent(image, tpu=equalize_by_products, default=by_index)


def equalize_by_products(image: Images) -> Images:
    """`equalize` as products with one-hot vectors; exact in one bfloat16 pass, which holds 0..255, with counts summed in float32."""
    upper, lower = (jax.nn.one_hot(part, 16) for part in jnp.divmod(image.astype(jnp.int32), 16))
    count = jnp.einsum("bhwci,bhwcj->bcij", upper, lower)
    table = equalize_table(count.reshape(*count.shape[:2], 256).astype(jnp.int32))
    chosen = jnp.einsum("bhwci,bcij->bhwcj", upper, table.reshape(count.shape))
    return jnp.sum(chosen * lower, axis=-1)


def equalize_table(count: Int[Array, "b c 256"]) -> Float[Array, "b c 256"]:
    """Pillow's table from a histogram: (step // 2 + pixels below) // step with step = (pixels - pixels of the largest value) // 255."""
    largest = 255 - jnp.argmax(count[..., ::-1] > 0, axis=-1)
    at_largest = jnp.take_along_axis(count, largest[..., None], axis=-1)
    step = (jnp.sum(count, axis=-1, keepdims=True) - at_largest) // 255
    below = jnp.cumsum(count, axis=-1) - count
    table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, jnp.arange(256)).astype(jnp.float32)


def shift_hue(image: Images, turn: PerExample) -> Images:
    """Turns the hue of RGB images in 0..1 by `turn` of a full circle, in HSV."""
    value, low = image.max(axis=-1), image.min(axis=-1)
    chroma = value - low
    divisor = jnp.where(chroma == 0, 1, chroma)
    red, green, blue = (image[..., c] for c in range(3))
    hue = jnp.where(
        value == red, (green - blue) / divisor, jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    )
    hue = hue + 6 * jnp.reshape(turn, (-1, 1, 1))
    phase = jnp.mod(jnp.stack([hue + 5, hue + 3, hue + 1], axis=-1), 6)
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)


JITTERS = ("brightness", "contrast", "saturation", "hue")


def color_jitter(
    key: Array, image: Images, row: Int[Array, "b"], *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Images:
    """torchvision's ColorJitter on float images: float32 in 0..255, not rounded.

    Brightness, contrast and saturation are blends with black, the mean luma and the luma, factors uniform in [max(0, 1 - x), 1 + x]; hue turns
    by a uniform share of the circle in [-hue, hue]; the order is drawn for every example. Images that do not have three channels skip saturation
    and hue. A strength of 0 leaves its operation out of the program.
    """
    colored = image.shape[-1] == 3
    strengths = dict(zip(JITTERS, (brightness, contrast, saturation * colored, hue * colored)))
    strengths = {name: strength for name, strength in strengths.items() if strength > 0}
    if not strengths:
        return image.astype(jnp.float32)
    return jitter(image, *draw_jitter(key, row, strengths), names=tuple(strengths))


def draw_jitter(key: Array, row: Int[Array, "b"], strengths: dict[str, float]) -> tuple[Int[Array, "b n"], Float[Array, "b n"]]:
    """For each example an order of the named operations, and the argument of each (not in that order but in the dictionary's)."""
    ranges = [(-most, most) if name == "hue" else (max(0.0, 1 - most), 1 + most) for name, most in strengths.items()]
    low, high = jnp.asarray(ranges).T

    def draw(k):
        order_key, argument_key = jax.random.split(k)
        return jax.random.permutation(order_key, len(ranges)), jax.random.uniform(argument_key, (len(ranges),), minval=low, maxval=high)

    return jax.vmap(draw)(row_keys(key, row))


def jitter(image: Images, order: Int[Array, "b n"], arguments: Float[Array, "b n"], *, names: tuple[str, ...]) -> Images:
    """Applies to each example the operations `names[i]` with `arguments[:, i]` in its order, clipped after each.

    Luma is 0.2989 R + 0.587 G + 0.114 B, the mean of other numbers of channels.
    """
    x = image.astype(jnp.float32) / 255
    for turn in range(len(names)):
        mine = {name: (order[:, turn] == i)[:, None, None, None] for i, name in enumerate(names)}
        luma = jnp.sum(x * jnp.asarray([0.2989, 0.587, 0.114]), axis=-1, keepdims=True) if x.shape[-1] == 3 else x.mean(axis=-1, keepdims=True)
        other = jnp.zeros_like(x)
        if "contrast" in mine:
            other = jnp.where(mine["contrast"], luma.mean(axis=(1, 2, 3), keepdims=True), other)
        if "saturation" in mine:
            other = jnp.where(mine["saturation"], luma, other)
        argument = _column(jnp.take_along_axis(arguments, order[:, turn : turn + 1], axis=1))
        blended = jnp.clip(other + argument * (x - other), 0, 1)
        x = jnp.where(mine["hue"], shift_hue(x, argument), blended) if "hue" in mine else blended
    return x * 255
