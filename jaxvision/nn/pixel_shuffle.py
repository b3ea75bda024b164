"""The sub-pixel shuffle (Shi et al. 2016, arXiv 1609.05158, equation 4): r x r groups of channels become r x r pixels, and back.

Two orders of the channels are in use. "torch" (torch.nn.PixelShuffle, and everywhere in this library): channel c r^2 + i r + j goes to row i and
column j of colour c. "paper": colour-minor, channel C r j + C i + c.
"""

import jax.numpy as jnp
from jaxtyping import Array, Num

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.pixel_shuffle import ORDERS, pixel_shuffle

__all__ = ["pixel_shuffle", "pixel_unshuffle"]


def pixel_unshuffle(x: Num[Array, "b p q c"], scale: int, *, order: str = "torch") -> Num[Array, "b h w d"]:
    """The inverse of `pixel_shuffle`. Raises ModelError when the sides do not divide by `scale`, or for an unknown order."""
    if order not in ORDERS:
        raise ModelError(f"the order {order!r} of a pixel shuffle is unknown; {nearest(order, ORDERS)}")
    axes = ORDERS[order]
    b, p, q, c = x.shape
    if p % scale or q % scale:
        raise ModelError(f"{p} x {q} pixels do not divide into blocks of {scale} x {scale}")
    cut = x.reshape(b, p // scale, scale, q // scale, scale, c)
    place = {"i": 2, "j": 4, "c": 5}
    return jnp.transpose(cut, (0, 1, 3, *(place[axis] for axis in axes))).reshape(b, p // scale, q // scale, c * scale**2)
