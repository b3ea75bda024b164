"""D-Former (Wu et al. 2022, arXiv 2201.00462): a U-shaped 3-D transformer for medical volumes.

Instead of shifted windows, blocks alternate attention among neighbours with attention among tokens that lie at a stride over the whole volume
(dilated groups), at the same cost; one depthwise convolution a stage tells positions. The decoder expands tokens 2x2x2 and joins what came into each
encoder stage.

As in the public code: every stage begins with x + depthwise(x); a map with fewer rows than a group is one group; padding along the depth alone is
seen by dilated attention. Differently: the number of classes is an argument; sizes that it refuses (tokens that are no whole number of strides, odd
sides after merging, volumes that are no whole patches) are padded and cut back; a network may see volumes of several sizes.
"""

import functools
import re
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.attention import self_attention
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule, from_torch, to_torch
from jaxvision.nn.attention import QKV, weights_of
from jaxvision.nn.classifier import torch_bias, torch_kernel
from jaxvision.nn.groups import Groups, Size, dilated_groups, local_groups, shifted_groups
from jaxvision.nn.mlp import Mlp, mlp_residual
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap
from jaxvision.nn.volume import EPSILON, DepthwiseConv3D, PatchExpand3D, PatchMerging3D, PatchProjection3D

# What every second block attends over; "global" is the paper, the others are what it is compared with.
SECOND = {
    "global": dilated_groups,
    "local": lambda size, group, interval: local_groups(size, group),
    "shifted": lambda size, group, interval: shifted_groups(size, group),
}


class GroupAttention(nn.Module):
    """Self-attention inside each group, `qkv` and `proj` as timm. Taps `weights` (B, groups, heads, T, T)."""

    heads: int
    groups: Groups
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b d h w c"]:
        dim, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        cut = self.groups.cut(x)
        b, n, t, _ = cut.shape
        # The bias is torch's, drawn as the kernel is; QKV leaves adding it to the kernel, so that padding carries it too.
        qkv, offset = QKV(3 * dim, True, torch_kernel, **dtypes, name="qkv")(cut)
        mask = self.groups.mask()
        bias = None if mask is None else jnp.where(mask, 0.0, -1e30)
        tap(self, "weights", lambda: weights_of(qkv.reshape(b * n, t, -1), self.heads, None if bias is None else jnp.tile(bias, (b, 1, 1, 1)),
                                                offset=offset).reshape(b, n, self.heads, t, t))
        y = self_attention(qkv.reshape(b * n, t, 3 * dim), self.heads, offset=offset, mask=None if mask is None else jnp.asarray(mask))
        y = Dense(dim, kernel_init=torch_kernel, bias_init=torch_bias(dim), **dtypes, name="proj")(y.reshape(b, n, t, dim))
        return self.groups.join(y)


class DFormerBlock(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x))."""

    heads: int
    groups: Groups
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"], train: bool) -> Float[Array, "b d h w c"]:
        dim, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = GroupAttention(self.heads, self.groups, **dtypes, name="attn")(LayerNorm(EPSILON, **dtypes, name="norm1")(x))
        x = residual(x, DropPath(self.drop_path)(y, train=train))
        mlp = Mlp(int(dim * self.mlp_ratio), kernel_init=torch_kernel, bias_init=torch_bias(dim), **dtypes, name="mlp")
        return mlp_residual(x, LayerNorm(EPSILON, **dtypes, name="norm2"), mlp, DropPath(self.drop_path), train=train)


class PositionBlock(nn.Module):
    """x + a depthwise 3x3x3 convolution of x (Chu et al. 2021, arXiv 2102.10882)."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b d h w c"]:
        conv = DepthwiseConv3D(3, kernel_init=torch_kernel, bias_init=torch_bias(27), dtype=self.dtype, param_dtype=self.param_dtype, name="proj_0")
        return x + conv(x)


class Stage(nn.Module):
    """Position, then blocks: neighbours, strides, neighbours, …; then `after`, a merging or expanding layer, where there is one."""

    heads: int
    drop_path: tuple[float, ...]
    group: Size
    interval: int
    second: str
    mlp_ratio: float
    remat: bool
    after: functools.partial | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"], train: bool) -> Float[Array, "b d2 h2 w2 m"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, size = PositionBlock(**dtypes, name="pos_block")(x), x.shape[1:4]
        cuts = (local_groups(size, self.group), SECOND[self.second](size, self.group, self.interval))
        block = nn.remat(DFormerBlock, static_argnums=(2,)) if self.remat else DFormerBlock
        for i, rate in enumerate(self.drop_path):
            x = block(self.heads, cuts[i % 2], self.mlp_ratio, rate, **dtypes, name=f"blocks_{i}")(x, train)
        return x if self.after is None else self.after()(x)


class PatchEmbed(nn.Module):
    """Patches, each projected (`proj`) and normalized (`norm`)."""

    patch: Size
    dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, volume: Float[Array, "b d h w c"]) -> Float[Array, "b d2 h2 w2 m"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        bias = torch_bias(self.patch[0] * self.patch[1] * self.patch[2] * volume.shape[-1])
        x = PatchProjection3D(self.patch, self.dim, kernel_init=torch_kernel, bias_init=bias, **dtypes, name="proj")(volume)
        return LayerNorm(EPSILON, **dtypes, name="norm")(x)


class DFormer(nn.Module):
    """Logits (B, D, H, W, num_classes) float32 of volumes of any size; the first class is background. With num_classes=0 the finest decoder map.

    Attributes:
      num_classes: outputs, background among them.
      dim: channels of the first stage, doubled at each further one.
      depths, heads: of each encoder stage; the decoder mirrors all but the last.
      patch: voxels of a token. group: tokens of a group.
      intervals: what each stage's sides are padded to multiples of before tokens are taken at a stride.
      second: what every second block attends over, "global"; "local" or "shifted" are for comparison.
      mlp_ratio, drop_path: as everywhere; rates rise along the encoder, and a decoder stage has those of its encoder stage.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    num_classes: int = 14
    image_size: tuple[int, ...] = (64, 128, 128)
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    patch: Size = (2, 4, 4)
    group: Size = (2, 8, 8)
    intervals: tuple[int, ...] = (8, 4, 2, 1)
    second: str = "global"
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, volume: Float[Array, "b d h w c"], *, train: bool = False) -> Float[Array, "b d h w k"]:
        finest = self._run(volume, train, heads=1 if not self.is_initializing() else len(self.depths) - 1)
        return finest[0]

    def outputs(self, volume: Float[Array, "b d h w c"], *, train: bool = False) -> tuple[Float[Array, "b _d _h _w k"], ...]:
        """Logits for deep supervision, finest first: at full size, at half, at a quarter, … one of each decoder stage."""
        return self._run(volume, train, heads=len(self.depths) - 1)

    def stages(self, volume: Float[Array, "b d h w c"], *, train: bool = False) -> tuple[Float[Array, "b _d _h _w _c"], ...]:
        """The maps that the heads read, finest first: the last decoder stage, normalized, and the other stages' inputs from below."""
        return self._run(volume, train, heads=0)

    @nn.compact
    def _run(self, volume, train: bool, heads: int):
        last = len(self.depths) - 1
        if {len(self.depths), len(self.heads), len(self.intervals)} != {last + 1}:
            raise ModelError(f"model.depths, heads and intervals are one number a stage, got {self.depths}, {self.heads} and {self.intervals}")
        if self.second not in SECOND:
            raise ModelError(f"model.second {self.second!r} is unknown; {nearest(self.second, SECOND)}")
        if volume.ndim != 5:
            raise ModelError(f"D-Former sees volumes (B, D, H, W, C), not an array of shape {volume.shape}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        rates, first = drop_path_rates(self.drop_path, sum(self.depths)), [sum(self.depths[:i]) for i in range(last + 1)]

        def stage(name: str, i: int, after):
            own = rates[first[i] : first[i] + self.depths[i]]
            shared = (self.group, self.intervals[i], self.second, self.mlp_ratio, self.remat)
            return Stage(self.heads[i], own, *shared, after, **dtypes, name=name)

        def expand(sides: Size, dim: int, name: str):
            return functools.partial(PatchExpand3D, sides, dim, torch_kernel, **dtypes, name=name)

        merge = functools.partial(PatchMerging3D, torch_kernel, **dtypes, name="downsample")
        x, skips = PatchEmbed(self.patch, self.dim, **dtypes, name="patch_embed")(volume), []
        for i in range(last + 1):
            skips.append(x)
            x = stage(f"layers_{i}", i, merge if i < last else None)(x, train)
        x = LayerNorm(EPSILON, **dtypes, name="norm")(x)
        x = expand((2, 2, 2), self.dim * 2 ** (last - 1), "layers_up_0")()(x)
        maps = [x]
        for number, i in enumerate(reversed(range(last)), 1):
            dim, (d, h, w) = self.dim * 2**i, skips[i].shape[1:4]
            joined = jnp.concatenate([x[:, :d, :h, :w], skips[i]], -1)
            x = Dense(dim, kernel_init=torch_kernel, bias_init=torch_bias(2 * dim), **dtypes, name=f"concat_back_dim_{number}")(joined)
            x = stage(f"layers_up_{number}", i, expand((2, 2, 2), dim // 2, "upsample") if i else None)(x, train)
            maps.append(x)
        # The finest map is the last stage's; those of coarser heads are taken before the next skip is joined.
        maps = [LayerNorm(EPSILON, **dtypes, name="norm_up")(maps[-1]), *maps[-3::-1]]
        if not heads or not self.num_classes:
            return tuple(maps)
        logits = []
        for i, x in enumerate(maps[:heads]):
            x = expand(self.patch, self.dim * 2**i, f"final_{i}_0")()(x)
            x = x[(slice(None), *(slice(0, -(-side // 2**i)) for side in volume.shape[1:4]))]
            y = Dense(self.num_classes, use_bias=False, kernel_init=torch_kernel, **dtypes, name=f"final_{i}_1")(x)
            logits.append(y.astype(jnp.float32))
        return tuple(logits)


_HEAD = {"load": lambda arrays, shape: from_torch(arrays[0]).reshape(shape), "save": lambda array: (to_torch(array.reshape(1, 1, 1, *array.shape)),)}
CHECKPOINT = {
    "torch": (
        Rule(r"final_(\d)_0/(\w+)/(\w+)", r"final.\1.0.\2.\3"),
        Rule(r"final_(\d)_1/kernel", r"final.\1.1.kernel", **_HEAD),
        Rule(r"(.*)", lambda match: "model_down." + re.sub(r"_(\d+)(?=/)", r".\1", match[1]).replace("/", ".")),
    )
}


def _variant(size: tuple[int, int, int], patch: Size, parameters: int | None, **fields) -> Variant:
    """One channel, normalized by its source; `parameters` with 14 outputs."""
    known = {"image_size": size, "mean": (0.0,), "std": (1.0,), "crop": 1.0, "classes": 14}
    return Variant(DFormer, {"patch": patch, **fields}, parameters=parameters, **known)


VARIANTS = {
    # Published as 44.26 million, which is the encoder and decoder without heads (44,353,344 by the code).
    "d_former": _variant((64, 128, 128), (2, 4, 4), 50_557_248),
    # For slices far apart, such as the heart's: patches of one slice. Ours; the released code has the former alone.
    "d_former_thick": _variant((16, 160, 160), (1, 4, 4), None),
    "d_former_demo": _variant((16, 32, 32), (2, 2, 2), None, dim=24, depths=(2, 2), heads=(2, 4), group=(2, 4, 4), intervals=(4, 2)),
}
