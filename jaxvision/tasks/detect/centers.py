"""Objects as points (Zhou et al. 2019, arXiv 1904.07850): heat maps of centres, what is learned at a centre, and boxes from peaks.

A cell is `stride` pixels wide. Boxes are yxyx in pixels of the network's image. Sizes and offsets are (x, y), as the public heads have them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.kernels.materialize import materialize
from jaxvision.nn.pool import max_pool

OVERLAP = 0.7  # that a box moved by the radius has with the true one at least


def _roots(height, width, corrected: bool):
    """The three radii at which a box of one corner moved inwards or outwards, or both, overlaps the true one by OVERLAP."""
    both, area, m = height + width, height * width, OVERLAP
    systems = ((1, both, area * (1 - m) / (1 + m)), (4, 2 * both, (1 - m) * area), (4 * m, -2 * m * both, (m - 1) * area))
    for number, (a, b, c) in enumerate(systems):
        root = jnp.sqrt(b * b - 4 * a * c)
        if corrected:
            yield (b + root if number == 2 else b - root) / (2 * a)
        else:
            yield (b + root) / 2


def radius(height: Float[Array, "..."], width: Float[Array, "..."], form: str = "corrected") -> Float[Array, "..."]:
    """Whole cells that a centre may be off, of boxes in cells.

    form: "corrected", CornerNet's roots as it corrected them; "released", as CornerNet released them and CenterNet's code kept them, of sides
    rounded up: three times as much for large boxes.
    """
    if form == "released":
        height, width = jnp.ceil(height), jnp.ceil(width)
    least = jnp.minimum(jnp.minimum(*(roots := list(_roots(height, width, form == "corrected")))[:2]), roots[2])
    return jnp.floor(jnp.maximum(least, 0))


class Targets(NamedTuple):
    """Of a batch, in cells.

    Attributes:
      heat: 1 at centres, Gaussians around them, the largest where they overlap.
      cell: place of each centre, row times columns plus column.
      size, offset: (width, height), and what the centre is right of and below its cell's corner.
      valid: which of the boxes count.
    """

    heat: Float[Array, "b h w k"]
    cell: Int[Array, "b n"]
    size: Float[Array, "b n 2"]
    offset: Float[Array, "b n 2"]
    valid: Bool[Array, "b n"]


def targets(
    boxes: Float[Array, "b n 4"], label: Int[Array, "b n"], valid: Bool[Array, "b n"], size: tuple[int, int], classes: int, *,
    stride: int = 4, form: str = "corrected",
) -> Targets:  # fmt: skip
    """What a network has to say of these boxes on a map of `size` cells. A Gaussian ends at its radius r; its deviation is (2 r + 1) / 6."""
    label, valid = jnp.asarray(label), jnp.asarray(valid)
    top, left, bottom, right = jnp.moveaxis(jnp.asarray(boxes) / stride, -1, 0)
    y, x, height, width = (top + bottom) / 2, (left + right) / 2, bottom - top, right - left
    row, column = (jnp.clip(jnp.floor(v), 0, n - 1).astype(jnp.int32) for v, n in zip((y, x), size))
    reach = radius(jnp.maximum(height, 0), jnp.maximum(width, 0), form)
    deviation = (2 * reach + 1) / 6
    bells = []
    for place, n in zip((row, column), size):
        away = jnp.abs(jnp.arange(n) - place[..., None]).astype(jnp.float32)
        bell = jnp.exp(-jnp.square(away) / (2 * jnp.square(deviation[..., None])))
        bells.append(jnp.where((away <= reach[..., None]) & valid[..., None], bell, 0.0))
    example = jnp.arange(len(boxes))

    # An object at a time: all of them together would be a map for each.
    def draw(i, heat):
        plane = bells[0][:, i, :, None] * bells[1][:, i, None, :]
        return heat.at[example, label[:, i]].max(plane)

    heat = jax.lax.fori_loop(0, boxes.shape[1], draw, jnp.zeros((len(boxes), classes, *size), jnp.float32))
    offset = jnp.stack([x - column, y - row], -1)
    return Targets(jnp.moveaxis(heat, 1, -1), row * size[1] + column, jnp.stack([width, height], -1), offset, valid)


def focal_loss(logits: Float[Array, "b h w k"], heat: Float[Array, "b h w k"]) -> Float[Array, "b"]:
    """Penalty-reduced focal loss, summed over an example: at centres -(1 - p)^2 log p, elsewhere -(1 - heat)^4 p^2 log(1 - p)."""
    logits = logits.astype(jnp.float32)
    p = jax.nn.sigmoid(logits)
    centre = -jnp.square(1 - p) * jax.nn.log_sigmoid(logits)
    other = -((1 - heat) ** 4) * jnp.square(p) * jax.nn.log_sigmoid(-logits)
    return jnp.where(heat == 1, centre, other).sum((1, 2, 3))


def at_centers(maps: Float[Array, "b h w d"], cell: Int[Array, "b n"]) -> Float[Array, "b n d"]:
    """The values of a map at cells."""
    return jnp.take_along_axis(maps.reshape(len(maps), -1, maps.shape[-1]), cell[..., None], axis=1)


def center_distance(maps: Float[Array, "b h w 2"], truth: Float[Array, "b n 2"], aims: Targets) -> Float[Array, "b"]:
    """L1 at the valid centres, summed over an example and both coordinates."""
    return (jnp.abs(at_centers(maps.astype(jnp.float32), aims.cell) - truth) * aims.valid[..., None]).sum((1, 2))


class Found(NamedTuple):
    """Boxes yxyx in pixels, best first, with class and probability."""

    boxes: Float[Array, "b k 4"]
    label: Int[Array, "b k"]
    score: Float[Array, "b k"]


def peaks(
    heat: Float[Array, "b h w k"], size: Float[Array, "b h w 2"], offset: Float[Array, "b h w 2"], count: int, stride: int = 4
) -> Found:
    """The `count` highest cells (or as many as there are) of probabilities `heat` that no neighbour exceeds, as boxes; nothing else is suppressed.

    Sizes below 0, which an untrained head may say, are 0."""
    batch, rows, columns, classes = heat.shape
    # Stored, because a compiler that computes a cell again for the comparison may find another last bit, and then there is no peak.
    heat = materialize(heat)
    alone = jnp.where(max_pool(heat, 3, 1, 1) == heat, heat, 0.0)
    # The best of each class, then the best of those: no sort of all classes together.
    score, cell = jax.lax.top_k(jnp.moveaxis(alone, -1, 1).reshape(batch, classes, -1), min(count, rows * columns))
    score, chosen = jax.lax.top_k(score.reshape(batch, -1), min(count, score.shape[-1] * classes))
    label, cell = chosen // cell.shape[-1], jnp.take_along_axis(cell.reshape(batch, -1), chosen, axis=1)
    across, down = jnp.moveaxis(jnp.maximum(at_centers(size, cell), 0) / 2, -1, 0)
    right, below = jnp.moveaxis(at_centers(offset, cell), -1, 0)
    y, x = cell // columns + below, cell % columns + right
    return Found(stride * jnp.stack([y - down, x - across, y + down, x + across], -1), label, score)
