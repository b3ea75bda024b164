"""The sub-pixel shuffle: groups of channels become pixels."""

import functools

import jax
from jaxtyping import Array, Num

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.choice import chosen
from jaxvision.kernels.pixel_shuffle import reference, tpu

IMPLEMENTATIONS = {"reference": reference.forward, "tpu": tpu.forward}
# How the channel axis is cut, and which axis of the cut is the row, the column and the colour.
ORDERS = {"torch": "cij", "paper": "jic"}


def pixel_shuffle(x: Num[Array, "b h w d"], scale: int, *, order: str = "torch", implementation: str | None = None) -> Num[Array, "b p q c"]:
    """(B, H, W, C r^2) -> (B, r H, r W, C) for r = `scale`; both implementations give the same numbers.

    Args:
      order: "torch", channel c r^2 + i r + j goes to row i and column j of colour c; "paper", colour-minor: C r j + C i + c.
      implementation: "reference" or "tpu"; None takes the one for the platform that the program is compiled for.

    Raises ModelError when the channels do not divide by r^2, for an unknown order and an unknown implementation.
    """
    if order not in ORDERS:
        raise ModelError(f"the order {order!r} of a pixel shuffle is unknown; {nearest(order, ORDERS)}")
    if x.shape[-1] % scale**2:
        raise ModelError(f"{x.shape[-1]} channels do not divide into groups of {scale} x {scale} pixels")
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ModelError(f"pixel_shuffle has no implementation {implementation!r}; {nearest(implementation, IMPLEMENTATIONS)}")
    by_platform = {name: functools.partial(run, scale=scale, axes=ORDERS[order]) for name, run in IMPLEMENTATIONS.items()}
    if (implementation := chosen(implementation)) is not None:
        return by_platform[implementation](x)
    return jax.lax.platform_dependent(x, tpu=by_platform["tpu"], default=by_platform["reference"])
