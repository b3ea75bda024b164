"""Layers of networks on clips (B, T, H, W, C)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.nn.conv import convolve, explicit_padding


class ClipConv(nn.Module):
    """Convolution over time, rows and columns, of stride 1 in time and zeros around, without bias. Parameter `kernel` (kt, kh, kw, in, features).

    The frames under the kernel are laid beside each other as channels, so it is one 2-D convolution of every frame.
    """

    features: int
    kernel_size: tuple[int, int, int]
    strides: int = 1
    kernel_init: Callable = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, clip: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 d"]:
        taps, rows, columns = self.kernel_size
        b, t, h, w, c = clip.shape
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, c, self.features), self.param_dtype)
        kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(rows, columns, taps * c, self.features)
        before = (taps - 1) // 2
        padded = jnp.pad(clip.astype(self.dtype), ((0, 0), (before, taps - 1 - before), (0, 0), (0, 0), (0, 0)))
        near = jnp.concatenate([padded[:, i : i + t] for i in range(taps)], axis=-1).reshape(b * t, h, w, taps * c)
        padding = explicit_padding(None, (rows, columns), (1, 1))
        y = convolve(near, kernel.astype(self.dtype), (self.strides,) * 2, padding)
        return y.reshape(b, t, *y.shape[1:])
