"""Luma and chroma as MATLAB's rgb2ycbcr has them (ITU-R BT.601, studio range): what super-resolution is trained on and measured by.

Everything in 0..1: luma is 16/255 for black and 235/255 for white.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_MATRIX = np.asarray([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_OFFSET = np.asarray([16.0, 128.0, 128.0]) / 255
_BACK = np.linalg.inv(_MATRIX)


def rgb_to_ycbcr(image: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255, and likewise Cb and Cr, for RGB in 0..1."""
    return jnp.einsum("...c,dc->...d", image, _MATRIX.astype(np.float32), precision="highest") + _OFFSET.astype(np.float32)


def ycbcr_to_rgb(image: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """The inverse; not clipped."""
    return jnp.einsum("...c,dc->...d", image - _OFFSET.astype(np.float32), _BACK.astype(np.float32), precision="highest")


def luma(image: Float[Array, "... c"]) -> Float[Array, "... 1"]:
    """Y of RGB; an image of one channel is its own luma."""
    return rgb_to_ycbcr(image)[..., :1] if image.shape[-1] == 3 else image
