"""Boxes drawn into pictures, for people: on the device while a run goes on, and on the host with names and scores for predictions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8

from jaxvision.tasks.segment.pictures import voc_palette


def colours(label: Int[Array, "..."]) -> Float[Array, "... 3"]:
    """A colour in 0..1 for each class; none is black."""
    return jnp.asarray(voc_palette()[1:], jnp.float32)[label % 255] / 255


def draw(
    image: Float[Array, "b h w 3"], boxes: Float[Array, "b n 4"], label: Int[Array, "b n"], valid: Bool[Array, "b n"], width: int = 1
) -> Float[Array, "b h w 3"]:
    """Images in 0..1 with the frames of boxes yxyx, in pixels, the first ones on top; `width` in pixels."""
    rows, columns = jnp.arange(image.shape[1])[:, None] + 0.5, jnp.arange(image.shape[2]) + 0.5

    def add(i, image):
        i = boxes.shape[1] - 1 - i
        top, left, bottom, right = (edge[:, None, None] for edge in jnp.moveaxis(boxes[:, i], -1, 0))
        inside = lambda grow: (rows > top - grow) & (rows < bottom + grow) & (columns > left - grow) & (columns < right + grow)
        frame = inside(0.5) & ~inside(0.5 - width) & valid[:, i, None, None]
        return jnp.where(frame[..., None], colours(label[:, i])[:, None, None], image)

    return jax.lax.fori_loop(0, boxes.shape[1], add, image)


def annotate(
    picture: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "n 4"],
    labels: Integer[np.ndarray, "n"],
    scores: Float[np.ndarray, "n"],
    names: Sequence[str],
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with boxes yxyx in its pixels, each with its class and its score in hundredths, the best on top."""
    from PIL import Image, ImageDraw

    page = Image.fromarray(picture)
    draw = ImageDraw.Draw(page)
    width = max(1, round(min(picture.shape[:2]) / 200))
    for i in np.argsort(scores, kind="stable"):
        top, left, bottom, right = map(float, boxes[i])
        colour = tuple(map(int, voc_palette()[1 + int(labels[i]) % 255]))
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
        text = f"{names[int(labels[i])]} {100 * scores[i]:.0f}"
        corner = (left + width, max(0.0, top - 11))
        draw.rectangle(draw.textbbox(corner, text), fill=colour)
        draw.text(corner, text, fill="white" if sum(colour) < 384 else "black")
    return np.asarray(page)
