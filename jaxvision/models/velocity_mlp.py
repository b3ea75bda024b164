"""A velocity for small pictures: a multilayer perceptron over the pixels of the state and the condition and over sines of the time.

Takes and gives what models/guided_unet.py does; for demos and tests of flows in minutes on a CPU.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.models.registry import Variant

# Angular frequencies of the time, in geometric order.
FREQUENCIES = np.geomspace(1.0, 20.0, 8).astype(np.float32)


class VelocityMLP(nn.Module):
    """image (B, H, W, C), time (B,) in 0..1, condition like the image -> (B, H, W, C). `num_classes` has no meaning here.

    `widths`: of the hidden layers.
    """

    num_classes: int = 0
    image_size: tuple[int, ...] = (8, 8)
    widths: tuple[int, ...] = (192, 192, 192)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w c"],
        *,
        time: Float[Array, "b"] | None = None,
        condition: Float[Array, "b h w c"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        """`time` None is 0 and `condition` None is zeros: enough to learn shapes from."""
        time = jnp.zeros(image.shape[:1]) if time is None else time
        condition = jnp.zeros_like(image) if condition is None else condition
        angle = time[:, None] * FREQUENCIES
        x = jnp.concatenate([image.reshape(len(image), -1), condition.reshape(len(image), -1), jnp.sin(angle), jnp.cos(angle)], -1)
        for width in self.widths:
            x = nn.silu(nn.Dense(width, dtype=self.dtype, param_dtype=self.param_dtype)(x))
        x = nn.Dense(int(np.prod(image.shape[1:])), dtype=self.dtype, param_dtype=self.param_dtype)(x)
        return x.reshape(image.shape).astype(jnp.float32)


VARIANTS = {"velocity_mlp": Variant(VelocityMLP, {}, image_size=(8, 8), mean=(0.5,), std=(0.5,), crop=1.0, classes=0)}
