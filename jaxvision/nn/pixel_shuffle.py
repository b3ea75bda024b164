"""The sub-pixel shuffle (Shi et al. 2016, arXiv 1609.05158, equation 4): r x r groups of channels become r x r pixels, and back.

Two orders of the channels are in use. "torch" (torch.nn.PixelShuffle, and everywhere in this library): channel c r^2 + i r + j goes to row i and
column j of colour c. "paper": colour-minor, channel C r j + C i + c.
"""

import jax.numpy as jnp
from jaxtyping import Array, Num

from jaxvision.errors import ModelError, nearest

# How the channel axis is cut, and which axis of the cut is the row, the column and the colour.
ORDERS = {"torch": "cij", "paper": "jic"}


def _check(order: str) -> str:
    if order not in ORDERS:
        raise ModelError(f"the order {order!r} of a pixel shuffle is unknown; {nearest(order, ORDERS)}")
    return ORDERS[order]


def pixel_shuffle(x: Num[Array, "b h w d"], scale: int, *, order: str = "torch") -> Num[Array, "b p q c"]:
    """(B, H, W, C r^2) -> (B, r H, r W, C) for r = `scale`. Raises ModelError when the channels do not divide by r^2."""
    axes = _check(order)
    b, h, w, d = x.shape
    if d % scale**2:
        raise ModelError(f"{d} channels do not divide into groups of {scale} x {scale} pixels")
    size = {"c": d // scale**2, "i": scale, "j": scale}
    cut = x.reshape(b, h, w, *(size[axis] for axis in axes))
    i, j, c = (3 + axes.index(axis) for axis in "ijc")
    return cut.transpose(0, 1, i, 2, j, c).reshape(b, h * scale, w * scale, size["c"])


def pixel_unshuffle(x: Num[Array, "b p q c"], scale: int, *, order: str = "torch") -> Num[Array, "b h w d"]:
    """The inverse of `pixel_shuffle`. Raises ModelError when the sides do not divide by `scale`."""
    axes = _check(order)
    b, p, q, c = x.shape
    if p % scale or q % scale:
        raise ModelError(f"{p} x {q} pixels do not divide into blocks of {scale} x {scale}")
    cut = x.reshape(b, p // scale, scale, q // scale, scale, c)
    place = {"i": 2, "j": 4, "c": 5}
    return jnp.transpose(cut, (0, 1, 3, *(place[axis] for axis in axes))).reshape(b, p // scale, q // scale, c * scale**2)
