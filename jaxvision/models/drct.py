"""DRCT (Hsu et al. 2024, "DRCT: Saving Image Super-resolution away from Information Bottleneck", arXiv 2404.00722): a super-resolution transformer
whose groups are dense: each of five Swin layers sees the group's input and what all layers before it made, so that features stay strong to the end.

Where we differ: pictures of any size are mirrored at their far edges to whole windows inside the network and the result is cut, as the published
evaluation does outside of it (a window is never made smaller than `window`); BasicSR's unused options are left out; `start="bilinear"` is ours, for
trainings of minutes. The published names of a checkpoint load; its averaged weights, `params_ema`, are taken first.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule
from jaxvision.models.swin import EPSILON, SwinBlock
from jaxvision.nn.classifier import torch_bias, torch_kernel
from jaxvision.nn.conv import Conv
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pixel_shuffle import pixel_shuffle
from jaxvision.nn.pointwise import Pointwise
from jaxvision.nn.regularize import drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap

# Of DIV2K, subtracted from pixels in 0..1 and added again.
RGB_MEAN = (0.4488, 0.4371, 0.4040)
LAYERS, RESIDUAL, SLOPE = 5, 0.2, 0.2
# The published rates of stochastic depth count six layers a group.
COUNTED = 6


def layer_heads(heads: int, dim: int) -> int:
    """Heads of a layer on `dim` channels, as published: `heads` less the remainder of the division."""
    return heads - dim % heads


class ResidualDenseGroup(nn.Module):
    """(B, H, W, d) -> the same: five Swin layers on d, d + growth, …, d + 4 growth channels, every second one shifted; 0.2 of what the last makes."""

    heads: int
    window: int
    growth: int
    mlp_ratio: float
    drop_path: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w d"]:
        made = [x]
        for number in range(1, LAYERS + 1):
            y = self.layer(number, jnp.concatenate(made, -1), train)
            made.append(y if number == LAYERS else nn.leaky_relu(y, SLOPE))
        return residual(x, made[-1] * RESIDUAL)

    def layer(self, number: int, x: Float[Array, "b h w e"], train: bool) -> Float[Array, "b h w g"]:
        """Swin layer `number` of 1..5 and the 1x1 convolution after it."""
        dim, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = SwinBlock(
            heads=layer_heads(self.heads, dim) if number > 1 else self.heads,
            window=(self.window,) * 2,
            shift=(self.window // 2,) * 2 if number % 2 == 0 else (0, 0),
            # The last two layers have narrow perceptrons.
            mlp_ratio=self.mlp_ratio if number < LAYERS - 1 else 1.0,
            drop_path=self.drop_path,
            **dtypes,
            name=f"swin{number}",
        )(x, train)
        adjust = Pointwise(self.features(number, dim), kernel_init=torch_kernel, bias_init=torch_bias(dim), **dtypes, name=f"adjust{number}")
        return adjust(x)

    def features(self, number: int, dim: int) -> int:
        """Channels that layer `number`, which sees `dim`, adds; the last returns to the trunk's."""
        return dim - (LAYERS - 1) * self.growth if number == LAYERS else self.growth


class DRCT(nn.Module):
    """(B, H, W, channels), pixels in 0..1, of any size -> (B, scale H, scale W, channels).

    Attributes:
      num_classes, image_size: of no meaning here; the registry gives them to every model.
      scale: a power of 2, or 3.
      channels: 3 for colour; one channel has no mean subtracted.
      dim, groups, growth: channels of the trunk, number of dense groups, channels that a layer adds.
      heads, window, mlp_ratio: of the first Swin layers; `layer_heads` says those of the others.
      features: channels of the convolutions that enlarge.
      drop_path: rate at the end of the trunk, one rate a group; those before rise linearly from 0.
      start: "published" draws every kernel. "bilinear": the first features of the convolutions outside the groups carry the picture, so that the
        untrained network enlarges it by bilinear interpolation. Drawn kernels alone take hours to learn that colours stay what they are.
      remat: recompute each group in the backward pass instead of keeping its activations.

    Taps `trunk` (B, H, W, dim), float32, once after each group, before the picture is cut to its size.
    """

    num_classes: int = 0
    image_size: tuple[int, ...] = (64, 64)
    scale: int = 4
    channels: int = 3
    dim: int = 180
    groups: int = 6
    growth: int = 32
    heads: int = 6
    window: int = 16
    mlp_ratio: float = 2.0
    features: int = 64
    drop_path: float = 0.1
    start: str = "published"
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    GROUP = ResidualDenseGroup

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b p q c"]:
        if image.shape[-1] != self.channels:
            raise ModelError(f"model.channels is {self.channels}, the image has {image.shape[-1]}")
        if self.start not in STARTS:
            raise ModelError(f"model.start {self.start!r} is unknown; {nearest(self.start, STARTS)}")
        if self.start == "bilinear" and self.channels > min(self.dim, self.features):
            raise ModelError(f"model.start='bilinear': dim {self.dim} and features {self.features} have to be at least the picture's {self.channels}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        mean = np.asarray(RGB_MEAN if self.channels == 3 else (0.0,) * self.channels, np.float32)
        height, width = image.shape[1:3]
        below, right = (-side % self.window for side in (height, width))
        whole = jnp.pad(image - mean, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")

        first = self._conv(self.dim, "conv_first", whole, 1)
        x = LayerNorm(EPSILON, **dtypes, name="patch_embed_norm")(first)
        group = nn.remat(self.GROUP, static_argnums=(2,)) if self.remat else self.GROUP
        group = functools.partial(group, self.heads, self.window, self.growth, self.mlp_ratio, **dtypes)
        for number, rate in enumerate(drop_path_rates(self.drop_path, COUNTED * self.groups)[::COUNTED]):
            x = group(rate, name=f"layers_{number}")(x, train)
            tap(self, "trunk", lambda x=x: x.astype(jnp.float32))
        x = self._conv(self.dim, "conv_after_body", LayerNorm(EPSILON, **dtypes, name="norm")(x), 0) + first
        # Pixels less their mean are above -1: with 1 added, the activation lets them pass.
        x = nn.leaky_relu(self._conv(self.features, "conv_before_upsample_0", x, 1, shift=1.0), 0.01)
        for number, factor in enumerate(_factors(self.scale)):
            x = self._conv(factor**2 * self.features, f"upsample_{2 * number}", x, factor, shift=0.0 if number else -1.0)
            x = pixel_shuffle(x, factor)
        x = self._conv(self.channels, "conv_last", x, 1).astype(jnp.float32) + mean
        return x[:, : height * self.scale, : width * self.scale]

    def _conv(self, features: int, name: str, x: Array, factor: int, shift: float = 0.0) -> Array:
        """A 3x3 convolution. With start="bilinear" its first features begin as the picture that the first of x are, enlarged `factor` times (0: as
        nothing), plus `shift`."""
        kernel_init, bias_init = torch_kernel, torch_bias(9 * x.shape[-1])
        if self.start == "bilinear":
            kernel_init, bias_init = carrying(kernel_init, self.channels, factor), starting_at(bias_init, self.channels * max(factor, 1) ** 2, shift)
        inits = {"kernel_init": kernel_init, "bias_init": bias_init}
        return Conv(features, 3, **inits, dtype=self.dtype, param_dtype=self.param_dtype, name=name)(x)


STARTS = ("published", "bilinear")


def carrying(init: Callable, channels: int, factor: int) -> Callable:
    """An initializer of 3x3 kernels whose first outputs begin as the first `channels` inputs, enlarged `factor` times by bilinear interpolation, the
    pixels of each block in the order of `pixel_shuffle`; with factor 0 they begin as zeros. The other outputs are `init`'s."""

    def start(key, shape, dtype=jnp.float32):
        kernel = np.zeros((3, 3, shape[2], channels * max(factor, 1) ** 2), np.float32)
        if factor:
            # Where the pixels of a block lie beside the centre of the small one, and by how much each of its three neighbours counts there.
            at = (np.arange(factor) + 0.5) / factor - 0.5
            weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(-1, 2)))
            block = np.einsum("iy,jx->yxij", weights, weights).reshape(3, 3, -1)
            for c in range(channels):
                kernel[:, :, c, c * factor**2 : (c + 1) * factor**2] = block
        return jnp.concatenate([jnp.asarray(kernel, dtype), init(key, shape, dtype)[..., kernel.shape[-1] :]], -1)

    return start


def starting_at(init: Callable, count: int, value: float) -> Callable:
    """An initializer of biases whose first `count` begin as `value`; the others are `init`'s."""
    return lambda key, shape, dtype=jnp.float32: init(key, shape, dtype).at[:count].set(value)


def _factors(scale: int) -> tuple[int, ...]:
    """What the picture is enlarged by, step after step. Raises ModelError for a scale that the architecture does not have."""
    if scale == 3:
        return (3,)
    if scale < 1 or scale & (scale - 1):
        raise ModelError(f"model.scale is {scale}; DRCT enlarges by 3 or by a power of 2")
    return (2,) * (scale.bit_length() - 1)


COUNTS = {
    "drct": (6, {2: 13_991_867, 3: 14_176_507, 4: 14_139_579}),
    "drct_l": (12, {2: 27_433_007, 3: 27_617_647, 4: 27_580_719}),
}
_PIXELS = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop": 1.0, "classes": 0, "image_size": (64, 64)}

VARIANTS = {
    f"{name}_x{scale}": Variant(DRCT, {"scale": scale, "groups": groups}, parameters=count, **_PIXELS)
    for name, (groups, counts) in COUNTS.items()
    for scale, count in counts.items()
}

CHECKPOINT = {"torch": (Rule(r"patch_embed_norm/(.*)", r"patch_embed.norm.\1"),)}
