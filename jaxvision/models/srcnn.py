"""SRCNN (Dong et al. 2014, arXiv 1501.00092), what ESPCN is measured against: three convolutions on a picture that was enlarged by bicubic
interpolation first, so that every one of them works on r^2 times as many pixels.

The enlargement is inside the network here, so that it takes the same input as the others.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.models.registry import Variant
from jaxvision.nn.conv import Conv
from jaxvision.nn.resize import bicubic


class SRCNN(nn.Module):
    """(B, H, W, channels) -> (B, scale H, scale W, channels), pixels in 0..1. `num_classes` and `image_size` have no meaning here.

    `activation` "tanh" is the variant that ESPCN's authors compare speed with.
    """

    num_classes: int = 0
    image_size: tuple[int, ...] = (33, 33)
    scale: int = 3
    channels: int = 1
    widths: tuple[int, int] = (64, 32)
    kernels: tuple[int, int, int] = (9, 5, 5)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b p q c"]:
        x = bicubic(image, (image.shape[1] * self.scale, image.shape[2] * self.scale))
        for number, (width, kernel) in enumerate(zip((*self.widths, self.channels), self.kernels), 1):
            init = nn.initializers.lecun_normal()
            x = Conv(width, kernel, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype, name=f"conv{number}")(x)
            x = nn.relu(x) if number < 3 else x
        return x.astype(jnp.float32)


VARIANTS = {
    f"srcnn_9{middle}5_x{scale}": Variant(
        SRCNN,
        {"scale": scale, "kernels": (9, middle, 5)},
        image_size=(33, 33),
        mean=(0.0,),
        std=(1.0,),
        crop=1.0,
        parameters=5_248 + (64 * 32 * middle**2 + 32) + 801,
        classes=0,
    )
    for middle in (1, 5)
    for scale in (2, 3, 4)
}
