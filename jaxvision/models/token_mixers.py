"""Token mixers of MetaFormer blocks (Yu et al. 2022, arXiv 2111.11418, and 2023, arXiv 2210.13452): what a block does between pixels.

A mixer is a function `(block, x, train)`, called inside the compact method of a `models.metaformer.MetaFormerBlock`, whose fields it reads; `x` is
normalized already. Its parameters, where it has any, are under the name `token_mixer`. `MIXERS` names them.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.nn.attention import Attention
from jaxvision.nn.conv import Conv
from jaxvision.nn.mlp import ACTIVATIONS
from jaxvision.nn.pointwise import Dense, Pointwise
from jaxvision.nn.pool import avg_pool

# The published code draws from a normal cut at +-2, which is a hundred standard deviations away.
init = nn.initializers.normal(0.02)


class StarReLU(nn.Module):
    """scale * relu(x)^2 + bias, both learned scalars (arXiv 2210.13452, section 3.2)."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        scale = self.param("scale", nn.initializers.ones, (1,), self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (1,), self.param_dtype).astype(self.dtype)
        return scale * jnp.square(nn.relu(x)) + bias


def activate(x: Float[Array, "... c"], activation: str, dtypes: Mapping[str, Any], name: str) -> Float[Array, "... c"]:
    """An activation by its name; `name` is that of its parameters, where it has any."""
    if activation == "star_relu":
        return StarReLU(**dtypes, name=name)(x)
    if activation not in ACTIVATIONS:
        raise ModelError(f"model.activation {activation!r} is unknown; {nearest(activation, ['star_relu', *ACTIVATIONS])}")
    return ACTIVATIONS[activation](x)


def identity(block: nn.Module, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    return x


def pool(block: nn.Module, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    """Mean of the neighbours inside the picture, minus the pixel itself, which the residual adds (equation 4)."""
    return avg_pool(x, block.pool_size, 1, block.pool_size // 2) - x


def attention(block: nn.Module, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    """Self-attention over all pixels, heads of `head_dim` channels, no bias on queries, keys and values."""
    b, h, w, dim = x.shape
    if dim % block.head_dim:
        raise ModelError(f"attention over {dim} channels needs a multiple of model.head_dim={block.head_dim}")
    mixer = Attention(dim // block.head_dim, qkv_bias=False, kernel_init=init, **block.dtypes, proj_bias=block.attention_bias, name="token_mixer")
    return mixer(x.reshape(b, h * w, dim), train=train).reshape(b, h, w, dim)


def random(block: nn.Module, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    """A frozen matrix of random positive shares, the same for all images and channels."""
    b, h, w, dim = x.shape
    logits = np.random.RandomState(block.number).uniform(size=(h * w, h * w))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return jnp.einsum("mn,bnc->bmc", shares.astype(x.dtype), x.reshape(b, h * w, dim)).reshape(x.shape)


class SepConv(nn.Module):
    """The inverted separable convolution of MobileNetV2: twice the channels, activation, depthwise 7x7, back; no biases."""

    activation: str
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        settings = {"use_bias": False, "kernel_init": init, **dtypes}
        dim = x.shape[-1]
        y = activate(Pointwise(2 * dim, **settings, name="pwconv1")(x), self.activation, dtypes, "act1")
        y = Conv(2 * dim, 7, groups=2 * dim, **settings, name="dwconv")(y)
        return Pointwise(dim, **settings, name="pwconv2")(y)


def sep_conv(block: nn.Module, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    return SepConv(block.activation, **block.dtypes, name="token_mixer")(x)


class SpatialFc(nn.Module):
    """One learned matrix over the pixels of a map, the same for all channels (`fc`, no bias)."""

    size: tuple[int, int]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, dim = x.shape
        fits(x, self.size, "its spatial layers")
        settings = {"use_bias": False, "kernel_init": init, "dtype": self.dtype, "param_dtype": self.param_dtype}
        y = Dense(h * w, **settings, name="fc")(x.reshape(b, h * w, dim).transpose(0, 2, 1))
        return y.transpose(0, 2, 1).reshape(x.shape)


def spatial_fc(block: nn.Module, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    return SpatialFc(block.size, **block.dtypes, name="token_mixer")(x)


MIXERS = {"identity": identity, "pool": pool, "attention": attention, "random": random, "sep_conv": sep_conv, "spatial_fc": spatial_fc}


def fits(x: Float[Array, "b h w c"], size: tuple[int, int], what: str) -> None:
    """Raises ModelError when a map is not of the size that the model was built for."""
    if x.shape[1:3] != size:
        given, wanted = (f"{a}x{b}" for a, b in (x.shape[1:3], size))
        raise ModelError(f"this model was built for maps of {wanted} where {what} are, got {given}: give create_model the image_size of the images")
