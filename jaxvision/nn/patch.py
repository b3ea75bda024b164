"""Cutting an image into patches and projecting each one."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.dense import dense
from jaxvision.kernels.wide import add_bias
from jaxvision.nn.norm import LayerNorm


def patch_grid(image_size: tuple[int, int], patch: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of patches of an image of `image_size` (H, W). Raises ModelError when the patch does not divide it."""
    rows, columns = patch_sides(patch)
    height, width = image_size
    if height % rows or width % columns or not height or not width:
        raise ModelError(f"an image of {height}x{width} pixels is not whole patches of {rows}x{columns}: both sides have to be multiples of it")
    return height // rows, width // columns


def patch_sides(patch: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a patch given as one number or two."""
    return (patch, patch) if isinstance(patch, int) else tuple(patch)


def whole_patches(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b h2 w2 c"]:
    """The part of a map that a convolution of kernel and stride `patch` sees: rows and columns that make no whole patch are left out."""
    height, width = x.shape[1] // patch * patch, x.shape[2] // patch * patch
    return x if (height, width) == x.shape[1:3] else x[:, :height, :width]


class PatchProjection(nn.Module):
    """A convolution whose stride is its kernel, computed as one matrix product over patches. Parameters `kernel` (p, q, in, dim), `bias` (dim,)."""

    patch: tuple[int, int]
    dim: int
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        (p, q), (batch, height, width, channels) = self.patch, x.shape
        rows, columns = patch_grid((height, width), self.patch)
        kernel = self.param("kernel", self.kernel_init, (p, q, channels, self.dim), self.param_dtype).astype(self.dtype)
        x = x.astype(self.dtype).reshape(batch, rows, p, columns, q, channels).transpose(0, 1, 3, 2, 4, 5)
        y = dense(x.reshape(batch, rows, columns, p * q * channels), kernel.reshape(p * q * channels, self.dim))
        if self.use_bias:
            y = add_bias(y, self.param("bias", self.bias_init, (self.dim,), self.param_dtype))
        return y


class PatchEmbed(nn.Module):
    """Non-overlapping patches, each projected to `dim` (`proj`), then LayerNorm (`norm`, epsilon 1e-5) when `norm`; a grid of tokens.

    Raises ModelError when a side of the image is no multiple of the patch.
    """

    patch: int | tuple[int, int]
    dim: int
    norm: bool = False
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        project = PatchProjection(
            patch_sides(self.patch), self.dim, self.use_bias, self.kernel_init, self.dtype, self.param_dtype, self.bias_init, name="proj"
        )
        x = project(image)
        return LayerNorm(1e-5, dtype=self.dtype, param_dtype=self.param_dtype, name="norm")(x) if self.norm else x
