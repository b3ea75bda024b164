"""MAXIM (Tu et al. 2022, "MAXIM: Multi-Axis MLP for Image Processing", arXiv 2201.02973): U-Nets in a row for denoising, deblurring, deraining,
dehazing and enhancement, with gated MLPs over blocks and over grids (nn/multi_axis.py) in every level, cross gating between encoder, decoder and
successive U-Nets, and a restored picture at several sizes from each of them.

The released flat .npz files load by name. Where we differ: features are enlarged and shrunk by shifted sums, after the 1x1 convolution where that is
less work (the two commute); no dropout, which no released configuration has. Sides that do not fit are mirrored as in the published evaluation, half
on each side, and cut off again.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models.registry import Variant
from jaxvision.nn.bilinear_ratio import enlarge, shrink
from jaxvision.nn.conv import Conv
from jaxvision.nn.mlp import gelu_tanh
from jaxvision.nn.multi_axis import NORMAL, CrossGating, MultiAxisBlock, UpConv
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pointwise import Dense, Pointwise
from jaxvision.nn.residual import residual
from jaxvision.nn.squeeze_excite import SqueezeExcite

LECUN = nn.initializers.lecun_normal()
Size = tuple[int, int]


def _attention(dim: int, reduction: int, dtypes: dict) -> nn.Module:
    return SqueezeExcite(dim // reduction, names=("Conv_0", "Conv_1"), kernel_init=LECUN, **dtypes, name="channel_attention")


class ConvAttention(nn.Module):
    """The residual channel attention block: x + attention(conv(leaky relu(conv(norm(x)))))."""

    reduction: int = 4
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dim, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(**dtypes, name="LayerNorm")(x)
        y = nn.leaky_relu(Conv(dim, 3, kernel_init=LECUN, **dtypes, name="conv1")(y), 0.2)
        y = Conv(dim, 3, kernel_init=LECUN, **dtypes, name="conv2")(y)
        return residual(x, _attention(dim, self.reduction, dtypes)(y))


class DenseAttention(nn.Module):
    """The same with an MLP over channels in place of convolutions: x + attention(dense(gelu(dense(norm(x)))))."""

    reduction: int = 4
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dim, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(**dtypes, name="LayerNorm")(x)
        y = ChannelMlp(**dtypes, name="channel_mixing")(y)
        return residual(x, _attention(dim, self.reduction, dtypes)(y))


class ChannelMlp(nn.Module):
    """dense(gelu(dense(x))), all of one width."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dense = lambda n: Dense(x.shape[-1], kernel_init=NORMAL, dtype=self.dtype, param_dtype=self.param_dtype, name=f"Dense_{n}")
        return dense(1)(gelu_tanh(dense(0)(x)))


class Bottleneck(nn.Module):
    """Pairs of multi-axis and dense attention blocks at the lowest resolution, around a shortcut."""

    dim: int
    window: Size
    num_groups: int
    reduction: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shortcut = x = Pointwise(self.dim, **dtypes, name="input_proj")(x)
        for i in range(self.num_groups):
            x = MultiAxisBlock(self.window, **dtypes, name=f"SplitHeadMultiAxisGmlpLayer_{i}")(x)
            x = DenseAttention(self.reduction, **dtypes, name=f"channel_attention_block_1_{i}")(x)
        return residual(x, shortcut)


class Level(nn.Module):
    """Pairs of multi-axis and convolutional attention blocks around a shortcut, gated by what an earlier U-Net made at this level.

    Attributes:
      down: return (the map at half the size, the map); otherwise the map alone.
      multi_axis: False leaves the multi-axis blocks out.
    """

    dim: int
    window: Size
    num_groups: int
    reduction: int
    down: bool
    multi_axis: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], skip: Array | None = None, earlier: Array | None = None):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = x if skip is None else jnp.concatenate([x, skip], -1)
        shortcut = x = Pointwise(self.dim, **dtypes, name="Conv_0")(x)
        for i in range(self.num_groups):
            if self.multi_axis:
                x = MultiAxisBlock(self.window, **dtypes, name=f"SplitHeadMultiAxisGmlpLayer_{i}")(x)
            x = ConvAttention(self.reduction, **dtypes, name=f"channel_attention_block_1{i}")(x)
        x = x + shortcut
        if earlier is not None:
            x, _ = CrossGating(self.dim, self.window, **dtypes, name="cross_gating_block")(x, earlier)
        if not self.down:
            return x
        return Conv(self.dim, 4, 2, padding=1, kernel_init=LECUN, **dtypes, name="Conv_1")(x), x


class UpLevel(nn.Module):
    """A level of the decoder: the map at twice its size, then a `Level` with what the encoder has there."""

    dim: int
    window: Size
    num_groups: int
    reduction: int
    multi_axis: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], skip: Float[Array, "b p q d"]) -> Float[Array, "b p q e"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = UpConv(self.dim, **dtypes, name="ConvTranspose_0")(x)
        settings = (self.dim, self.window, self.num_groups, self.reduction, False, self.multi_axis)
        return Level(*settings, **dtypes, name="UNetEncoderBlock_0")(x, skip)


class SupervisedAttention(nn.Module):
    """(features for the next U-Net, the restored picture): features are weighted by what the picture made of them says (MPRNet, arXiv 2102.02808)."""

    channels: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], image: Float[Array, "b h w i"]) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w i"]]:
        conv = lambda n, dim: Conv(dim, 3, kernel_init=LECUN, dtype=self.dtype, param_dtype=self.param_dtype, name=f"Conv_{n}")
        dim = x.shape[-1]
        restored = conv(1, self.channels)(x) + image
        return conv(0, dim)(x) * jax.nn.sigmoid(conv(2, dim)(restored)) + x, restored


class Rescale(nn.Module):
    """A map brought to 2^`octaves` times its size, bilinearly and antialiased, and projected."""

    dim: int
    octaves: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
        project = Pointwise(self.dim, dtype=self.dtype, param_dtype=self.param_dtype, name="Conv_0")
        return enlarge(project(x), 2**self.octaves) if self.octaves > 0 else project(shrink(x, 2**-self.octaves))


class MAXIM(nn.Module):
    """(B, H, W, C) -> (B, H, W, C), pixels in 0..1, not clipped. `outputs` gives the pictures of all U-Nets at all sizes.

    Attributes:
      num_classes, image_size: of no meaning here; the registry gives them to every model.
      dim: features at the full size, twice as many at each of the `depth` lower levels.
      num_stages: U-Nets in a row.
      num_groups, num_bottlenecks: pairs of blocks a level, and blocks at the lowest resolution.
      num_scales: sizes at which a picture is read and restored: 1, 1/2, 1/4 of the full one.
      window: sides of blocks and grids on the first `high_levels` levels; low_window: below.
      multi_axis, cross_gating: False leaves the gated MLPs, or the gating of skips, out, for comparison.
      channels: of the picture.
      remat: compute the blocks again in the backward pass instead of keeping what is inside them.
    """

    num_classes: int = 0
    image_size: tuple[int, ...] = (256, 256)
    dim: int = 32
    depth: int = 3
    num_stages: int = 2
    num_groups: int = 2
    num_bottlenecks: int = 2
    num_scales: int = 3
    high_levels: int = 2
    window: Size = (16, 16)
    low_window: Size = (8, 8)
    reduction: int = 4
    multi_axis: bool = True
    cross_gating: bool = True
    channels: int = 3
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def multiples(self) -> Size:
        """What both sides of a picture have to divide by, for every level to divide into its windows."""
        windows = [self._window(level) for level in range(self.depth)]
        return tuple(math.lcm(*(w[axis] * 2**level for level, w in enumerate([*windows, self.low_window]))) for axis in (0, 1))

    def _window(self, level: int) -> Size:
        return tuple(self.window if level < self.high_levels else self.low_window)

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        rows, columns = (_padding(side, multiple) for side, multiple in zip(image.shape[1:3], self.multiples()))
        # First to even sides, then half on each side: the second mirror is that of the padded picture.
        padded = jnp.pad(image, ((0, 0), (0, rows[1]), (0, columns[1]), (0, 0)), mode="reflect")
        padded = jnp.pad(padded, ((0, 0), (rows[0],) * 2, (columns[0],) * 2, (0, 0)), mode="reflect")
        made = self.outputs(padded, train=train)[-1]
        return made[:, rows[0] : rows[0] + image.shape[1], columns[0] : columns[0] + image.shape[2]]

    @nn.compact
    def outputs(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b p q c"], ...]:
        """The pictures that each U-Net restores, small ones first; the last one of all is the result. Raises ModelError for sides that do not fit."""
        if any(side % multiple for side, multiple in zip(image.shape[1:3], self.multiples())):
            size = f"{image.shape[1]} x {image.shape[2]}"
            raise ModelError(f"pictures of {size} pixels do not divide into windows at all levels; take multiples of {self.multiples()[0]}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        again = nn.remat if self.remat else lambda module: module
        Level_, Up_, Bottleneck_, Gating_ = map(again, (Level, UpLevel, Bottleneck, CrossGating))
        levels = range(self.depth)
        dims = [self.dim * 2**level for level in levels]
        common = (self.num_groups, self.reduction)
        # Pixels of the smaller pictures are taken, not averaged.
        images = [image, *(image[:, 2**level // 2 :: 2**level, 2**level // 2 :: 2**level] for level in range(1, self.num_scales))]
        attended: dict[int, Array] = {}
        earlier: list[Array | None] = [None] * self.depth
        made, rescaled = [], 0

        def joined(maps: list[Array], level: int) -> Array:
            """Maps of all levels, the first one's first, at the size of one of them."""
            nonlocal rescaled
            parts = []
            for source, value in maps:
                parts.append(Rescale(dims[level], source - level, **dtypes, name=f"UpSampleRatio_{rescaled}")(value))
                rescaled += 1
            return jnp.concatenate(parts, -1)

        for stage in range(self.num_stages):
            name = lambda part, stage=stage: f"stage_{stage}_{part}"
            entrance = []
            for level, picture in enumerate(images):
                x = Conv(dims[level], 3, kernel_init=LECUN, **dtypes, name=name(f"input_conv_{level}"))(picture)
                if stage and self.cross_gating:
                    x, _ = Gating_(dims[level], self._window(level), **dtypes, name=name(f"input_fuse_sam_{level}"))(x, attended[level])
                elif stage:
                    both = jnp.concatenate([x, attended[level]], -1)
                    x = Pointwise(dims[level], **dtypes, name=name(f"input_catconv_{level}"))(both)
                entrance.append(x)

            x, bridges = entrance[0], []
            for level in levels:
                block = Level_(dims[level], self._window(level), *common, True, self.multi_axis, **dtypes, name=name(f"encoder_block_{level}"))
                x, bridge = block(x, entrance[level] if level < self.num_scales else None, earlier[level])
                bridges.append((level, bridge))
            for i in range(self.num_bottlenecks):
                x = Bottleneck_(dims[-1], tuple(self.low_window), *common, **dtypes, name=name(f"global_block_{i}"))(x)

            gate, skips = x, []
            for number, level in enumerate(reversed(levels)):
                signal = joined(bridges, level)
                if self.cross_gating:
                    gating = Gating_(dims[level], self._window(level), True, **dtypes, name=name(f"cross_gating_block_{level}"))
                    skip, gate = gating(signal, gate)
                else:
                    first = 2 * (stage * self.depth + number)
                    skip = Pointwise(dims[level], **dtypes, name=f"Conv_{first}")(signal)
                    skip = Conv(dims[level], 3, kernel_init=LECUN, **dtypes, name=f"Conv_{first + 1}")(skip)
                skips.append((level, skip))

            earlier = [bridge for _, bridge in bridges]
            for level in reversed(levels):
                block = Up_(dims[level], self._window(level), *common, self.multi_axis, **dtypes, name=name(f"decoder_block_{level}"))
                x = block(x, joined(skips, level))
                earlier[level] = earlier[level] + x
                if level >= self.num_scales:
                    continue
                picture = images[level]
                if stage < self.num_stages - 1:
                    module = SupervisedAttention(self.channels, **dtypes, name=name(f"supervised_attention_module_{level}"))
                    attended[level], picture = module(x, picture)
                else:
                    picture = picture + Conv(self.channels, 3, kernel_init=LECUN, **dtypes, name=name(f"output_conv_{level}"))(x)
                made.append(picture.astype(jnp.float32))
        return tuple(made)


def _padding(side: int, multiple: int) -> tuple[int, int]:
    """(on each side, at the end before that) in pixels: to an even length first, as the published evaluation pads."""
    odd = side % 2
    return -(side + odd) % multiple // 2, odd


_PIXELS = {"image_size": (256, 256), "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop": 1.0, "classes": 0}
# Of the released weights, which restore at three sizes, and of the networks that restore at the full size alone.
COUNTS = {
    ("s", 1): (6_139_561, 6_108_515),
    ("s", 2): (14_176_178, 13_353_830),
    ("s", 3): (22_212_795, 20_599_145),
    ("m", 1): (19_464_265, 19_361_219),
    ("m", 2): (43_227_986, 40_839_110),
    ("m", 3): (66_991_707, 62_317_001),
}
VARIANTS = {
    f"maxim_{size}{stages}{suffix}": Variant(
        MAXIM, {"dim": {"s": 32, "m": 64}[size], "num_stages": stages, "num_scales": scales}, parameters=counts[scales == 1], **_PIXELS
    )
    for (size, stages), counts in COUNTS.items()
    for scales, suffix in ((3, ""), (1, "_single"))
}

# The released files name leaves as we do; "torch" is how our own weights are written.
CHECKPOINT = {"npz": (), "torch": ()}
