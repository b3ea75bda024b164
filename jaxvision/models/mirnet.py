"""MIRNet (Zamir et al. 2020, "Learning Enriched Features for Real Image Restoration and Enhancement", arXiv 2003.06792): three streams at full, half
and quarter resolution run side by side in every block, exchange what they found, and are fused by attention over streams.

As in the published code, and in its number of parameters: the dual attention unit of a stream is one module for all columns, all of these units in
the network share one PReLU, the resizers between two streams are those of the first column too, and the last fusion is that of the first stream.
Where we differ: sides that do not divide by 4 are mirrored at their far edges and the result is cut; in the upward resizers' plain path the 1x1
convolution comes before the interpolation (the two commute), and the transposed convolution is one matrix product whose taps are shifted and added.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import CheckpointError, ModelError
from jaxvision.kernels.dense import dense
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.classifier import torch_kernel
from jaxvision.nn.conv import Conv
from jaxvision.nn.pointwise import Pointwise
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap

REDUCTION = 8
SLOPE = 0.25


def prelu(x: Float[Array, "... c"], slope: Float[Array, "1"]) -> Float[Array, "... c"]:
    """x where it is positive, `slope` times x elsewhere (He et al. 2015, arXiv 1502.01852)."""
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


def blur_half(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Every second pixel of the map blurred by [1, 2, 1] / 4 along rows and columns, mirrored at its border (Zhang 2019, arXiv 1904.11486)."""
    for axis in (1, 2):
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)], mode="reflect")
        first, middle, last = (jax.lax.slice_in_dim(padded, start, start + x.shape[axis] - 1, 2, axis) for start in range(3))
        x = 0.25 * first + 0.5 * middle + 0.25 * last
    return x


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
    """Twice the size by bilinear interpolation, pixel centres at half integers."""
    for axis in (1, 2):
        padded, size = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)], mode="edge"), x.shape[axis]
        before, after = (jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))
        x = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1).reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def doubling_convolution(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b p q d"]:
    """The transposed convolution of stride 2 that doubles the size (torch: kernel 3, padding 1, output padding 1); `kernel` as torch's, in x out.

    Output pixel 2 i + k - 1 of a side sums input pixel i times tap k. All taps are one product at the small size.
    """
    c, d = kernel.shape[2:]
    taps = dense(x, kernel.transpose(2, 0, 1, 3).reshape(c, 9 * d)).reshape(*x.shape[:3], 3, 3, d)
    for axis in (1, 2):
        # Axis 3 holds the taps of the side that is being doubled: the next pixel's first one meets this pixel's last one.
        first, even, odd = (taps[:, :, :, k] for k in range(3))
        ahead = jax.lax.slice_in_dim(jnp.pad(first, [(0, 1) if i == axis else (0, 0) for i in range(first.ndim)]), 1, None, axis=axis)
        taps = jnp.moveaxis(jnp.stack([even, odd + ahead], 3), 3, -2) if axis == 1 else jnp.stack([even, odd + ahead], 3)
    # (b, h, w, column's phase, row's phase, d)
    return taps.transpose(0, 1, 4, 2, 3, 5).reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2], d)


class Layers(nn.Module):
    """What the modules below are made of: convolutions without biases, started as PyTorch starts them, and PReLUs of one number."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def conv(self, x: Array, features: int, name: str, kernel: int = 3) -> Array:
        inits = {"use_bias": False, "kernel_init": torch_kernel, "dtype": self.dtype, "param_dtype": self.param_dtype}
        return (Pointwise(features, **inits, name=name) if kernel == 1 else Conv(features, kernel, **inits, name=name))(x)

    def prelu(self, x: Array, name: str) -> Array:
        return PReLU(self.param_dtype, name=name)(x)


class PReLU(nn.Module):
    """`prelu` with a learned `slope` (1,) for all channels."""

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return prelu(x, self.param("slope", nn.initializers.constant(SLOPE), (1,), self.param_dtype))


class DualAttention(Layers):
    """x + a 1x1 convolution of what spatial and channel attention, side by side, leave of two convolutions of x."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], slope: Float[Array, "1"]) -> Float[Array, "b h w c"]:
        dim = x.shape[-1]
        y = self.conv(prelu(self.conv(x, dim, "body_0"), slope), dim, "body_2")
        seen = jnp.stack([y.max(-1), y.mean(-1)], -1)
        spatial = nn.sigmoid(self.conv(seen, 1, "spatial", 5))
        squeezed = y.astype(jnp.float32).mean((1, 2), keepdims=True)
        channel = nn.sigmoid(self.conv(nn.relu(self.conv(squeezed, dim // REDUCTION, "squeeze", 1)), dim, "excite", 1))
        return residual(x, self.conv(jnp.concatenate([y * spatial, y * channel], -1), dim, "conv1x1", 1))


class Fusion(Layers):
    """Selective-kernel fusion: the sum of maps of one shape, weighted a channel by a softmax over the maps. Taps `weights` (B, maps, C)."""

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, "b h w c"]]) -> Float[Array, "b h w c"]:
        dim = maps[0].shape[-1]
        mean = sum(maps).astype(jnp.float32).mean((1, 2))
        z = self.prelu(self.conv(mean, max(dim // REDUCTION, 4), "conv_du_0", 1), "conv_du_1")
        scores = jnp.stack([self.conv(z, dim, f"fcs_{i}", 1) for i in range(len(maps))], 1).astype(jnp.float32)
        weights = nn.softmax(scores, 1)
        tap(self, "weights", lambda: weights)
        return sum(x * weights[:, i, None, None].astype(x.dtype) for i, x in enumerate(maps))


class Down(Layers):
    """Half the size and twice the channels: the blurred half of two convolutions beside that of the map itself."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        dim = x.shape[-1]
        y = self.prelu(self.conv(x, dim, "top_0", 1), "top_1")
        y = self.prelu(self.conv(y, dim, "top_2"), "top_3")
        return self.conv(blur_half(y), 2 * dim, "top_5", 1) + self.conv(blur_half(x), 2 * dim, "bot_1", 1)


class Up(Layers):
    """Twice the size and half the channels: a transposed convolution beside bilinear interpolation."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
        dim = x.shape[-1]
        y = self.prelu(self.conv(x, dim, "top_0", 1), "top_1")
        y = self.prelu(TransposedConv(self.dtype, self.param_dtype, name="top_2")(y), "top_3")
        return self.conv(y, dim // 2, "top_4", 1) + double(self.conv(x, dim // 2, "bot_1", 1))


class TransposedConv(nn.Module):
    """`doubling_convolution` with a learned kernel."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
        kernel = self.param("kernel", torch_kernel, (3, 3, x.shape[-1], x.shape[-1]), self.param_dtype)
        return doubling_convolution(x.astype(self.dtype), kernel.astype(self.dtype))


class Resizer(nn.Module):
    """`steps` of Down (or Up) in a row."""

    step: type
    steps: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
        for number in range(self.steps):
            x = self.step(self.dtype, self.param_dtype, name=f"body_{number}")(x)
        return x


class MultiScaleBlock(Layers):
    """A multi-scale residual block: `streams` maps, each half the size and twice the channels of the one before, through `columns` of attention
    units, all streams fused into each before every column but the first, and into the full-size one at the end; plus x."""

    streams: int = 3
    columns: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], slope: Float[Array, "1"]) -> Float[Array, "b h w c"]:
        dtypes, dim = {"dtype": self.dtype, "param_dtype": self.param_dtype}, x.shape[-1]
        units = [DualAttention(**dtypes, name=f"blocks_{j}") for j in range(self.streams)]
        fusions = [Fusion(**dtypes, name=f"selective_kernel_{j}") for j in range(self.streams)]
        resizers = {}

        def resized(y, to):
            """The map of stream `to` that stream k's map y becomes; modules by channels and factor."""
            steps = to - (y.shape[-1] // dim).bit_length() + 1
            if steps == 0:
                return y
            name = f"{'down' if steps > 0 else 'up'}_{y.shape[-1]}_x{2 ** abs(steps)}"
            resizers[name] = resizers.get(name) or Resizer(Down if steps > 0 else Up, abs(steps), **dtypes, name=name)
            return resizers[name](y)

        maps = [units[0](x, slope)]
        for j in range(1, self.streams):
            maps.append(units[j](resized(maps[-1], j), slope))
        for _ in range(1, self.columns):
            fused = [fusions[j]([resized(y, j) for y in maps]) for j in range(self.streams)]
            maps = [unit(y, slope) for unit, y in zip(units, fused)]
        last = [Resizer(Up, k, **dtypes, name=f"last_up_{k}")(maps[k]) for k in range(1, self.streams)]
        return residual(x, self.conv(fusions[0]([maps[0], *last]), dim, "conv_out"))


class Group(Layers):
    """`blocks` multi-scale blocks and a convolution, plus x."""

    blocks: int = 2
    streams: int = 3
    columns: int = 2
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], slope: Float[Array, "1"]) -> Float[Array, "b h w c"]:
        block, y = nn.remat(MultiScaleBlock) if self.remat else MultiScaleBlock, x
        for number in range(self.blocks):
            y = block(self.dtype, self.param_dtype, self.streams, self.columns, name=f"body_{number}")(y, slope)
        return residual(x, self.conv(y, x.shape[-1], f"body_{self.blocks}"))


class MIRNet(Layers):
    """(B, H, W, channels), pixels in 0..1, of any size -> the same: the image plus what the network adds.

    Attributes:
      num_classes, image_size: of no meaning here; the registry gives them to every model.
      channels: of the image. dim: of the full-size stream.
      groups, blocks: recursive residual groups, and multi-scale blocks in each. streams, columns: of a block; one stream is a single-scale network.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    num_classes: int = 0
    image_size: tuple[int, ...] = (128, 128)
    channels: int = 3
    dim: int = 64
    groups: int = 3
    blocks: int = 2
    streams: int = 3
    columns: int = 2
    remat: bool = False

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        if image.shape[-1] != self.channels:
            raise ModelError(f"model.channels is {self.channels}, the image has {image.shape[-1]}")
        height, width = image.shape[1:3]
        below, right = (-side % 2 ** (self.streams - 1) for side in (height, width))
        x = self.conv(jnp.pad(image, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect"), self.dim, "conv_in")
        # One number for all attention units of the network.
        slope = self.param("slope", nn.initializers.constant(SLOPE), (1,), self.param_dtype)
        for number in range(self.groups):
            x = Group(self.dtype, self.param_dtype, self.blocks, self.streams, self.columns, self.remat, name=f"body_{number}")(x, slope)
        return self.conv(x, self.channels, "conv_out")[:, :height, :width].astype(jnp.float32) + image


_PIXELS = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop": 1.0, "classes": 0, "image_size": (128, 128)}
VARIANTS = {
    "mirnet": Variant(MIRNet, {}, parameters=31_787_419, **_PIXELS),
    # Of no publication: what a laptop trains in minutes.
    "mirnet_tiny": Variant(MIRNet, {"dim": 16, "groups": 1, "blocks": 1}, parameters=333_392, **_PIXELS),
}

_PLACES = {"spatial": "SA.spatial.conv", "squeeze": "CA.conv_du.0", "excite": "CA.conv_du.2", "slope": "weight"}
SHARED_SLOPE = "body.0.body.0.blocks.0.0.body.1.weight"


def _component(name: str) -> str:
    if resizer := re.fullmatch(r"(down|up)_(\d+)_x(\d+)", name):
        return "{}.{}_{}".format(*resizer.groups())
    name = re.sub(r"^(blocks_\d+)$", r"\1_0", name)
    return _PLACES.get(name) or re.sub(r"_(\d+)(?=$|_)", r".\1", name)


def _official(match: re.Match) -> str:
    return ".".join(map(_component, match[0].split("/")))


# A transposed convolution's kernel is (in, out, rows, columns) in torch.
CHECKPOINT = {
    "torch": (
        Rule("slope", SHARED_SLOPE),
        Rule(
            r".+/(up_\d+_x\d+|last_up_\d+)/body_\d+/top_2/kernel",
            _official,
            load=lambda arrays, shape: arrays[0].transpose(2, 3, 0, 1),
            save=lambda array: (array.transpose(2, 3, 0, 1),),
        ),
        Rule(r".+", _official),
    )
}


def adapt_checkpoint(arrays: Mapping[str, np.ndarray], layout: str, model: MIRNet) -> dict[str, np.ndarray]:
    """Each shared tensor once: files hold the units of a stream again for every column, the one PReLU in every unit, and the constant blur filters.

    Raises CheckpointError where copies differ, which no file of this network can have.
    """
    kept = {}
    for name, array in arrays.items():
        if name.endswith(".filt"):
            continue
        first = re.sub(r"(\.blocks\.\d+)\.\d+\.", r"\1.0.", name)
        if re.search(r"\.blocks\.\d+\.0\.body\.1\.weight$", first):
            first = SHARED_SLOPE
        if first in arrays and not np.array_equal(arrays[first], array):
            raise CheckpointError(f"{name} and {first} are one tensor in MIRNet, but differ in this file")
        kept[first] = array
    return kept
