"""The U-Net of guided diffusion (Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv 2105.05233), as OFTSR (arXiv
2412.09465) uses it for velocities: residual blocks under a time embedding, attention at low resolutions, a condition joined to the input.

Checkpoints of guided diffusion load by name; those of OFTSR hold averaged weights as a list without names, in the order of the modules, and load too.
Where we differ: no class embedding. `dtype` is the convolutions' and the attention's; norms, softmax and the time embedding are float32.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import CheckpointError, ModelError
from jaxvision.kernels.attention import attention
from jaxvision.kernels.block_resize import average_pool, repeat_pixels
from jaxvision.models import rules
from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant, shapes_of
from jaxvision.models.rules import Rule
from jaxvision.nn.conv import Conv
from jaxvision.nn.group_norm import GroupNorm
from jaxvision.nn.pointwise import Pointwise
from jaxvision.nn.residual import residual
from jaxvision.trees import named_leaves

# torch's default for convolutions and dense layers: uniform in +-1 / sqrt(fan in).
TORCH_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
RESAMPLES = {"": lambda x: x, "up": lambda x: repeat_pixels(x, 2), "down": lambda x: average_pool(x, 2)}


def timestep_embedding(time: Float[Array, "b"], dim: int) -> Float[Array, "b d"]:
    """Cosines, then sines, of `time` at dim / 2 frequencies from 1 down to almost 1 / 10,000; a last zero where `dim` is odd."""
    half = dim // 2
    angle = time.astype(jnp.float32)[:, None] * jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    return jnp.pad(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1), ((0, 0), (0, dim % 2)))


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, the second norm scaled and shifted by the time; `resample` changes the size of both branches between the first
    norm and its convolution."""

    features: int
    resample: str = ""
    dropout: float = 0.0
    groups: int = 32
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"], train: bool):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = lambda name: GroupNorm(self.groups, param_dtype=self.param_dtype, name=name)
        resample = RESAMPLES[self.resample]
        h = resample(nn.silu(norm("in_layers_0")(x)))
        h = Conv(self.features, 3, kernel_init=TORCH_INIT, **dtypes, name="in_layers_2")(h)
        moves = nn.Dense(2 * self.features, kernel_init=TORCH_INIT, param_dtype=self.param_dtype, name="emb_layers_1")(nn.silu(emb))
        scale, shift = jnp.split(moves[:, None, None], 2, axis=-1)
        h = nn.silu(norm("out_layers_0")(h) * (1 + scale) + shift)
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = Conv(self.features, 3, kernel_init=nn.initializers.zeros, **dtypes, name="out_layers_3")(h)
        x = resample(x)
        if x.shape[-1] != self.features:
            x = Pointwise(self.features, kernel_init=TORCH_INIT, **dtypes, name="skip_connection")(x)
        return residual(x, h)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels with heads of `width` channels. `qkv` is ordered by heads first, each with its q, k and v."""

    width: int = 64
    groups: int = 32
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]):
        b, height, wide, dim = x.shape
        if dim % self.width:
            raise ModelError(f"attention over {dim} channels needs heads of a width that divides them, not {self.width}; set model.head_width")
        dtypes = {"as_conv": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        h = GroupNorm(self.groups, param_dtype=self.param_dtype, name="norm")(x).reshape(b, height * wide, dim)
        qkv = Pointwise(3 * dim, kernel_init=TORCH_INIT, **dtypes, name="qkv")(h)
        q, k, v = jnp.moveaxis(qkv.reshape(b, height * wide, dim // self.width, 3, self.width), 3, 0)
        h = attention(q, k, v).reshape(b, height * wide, dim)
        return residual(x, Pointwise(dim, kernel_init=nn.initializers.zeros, **dtypes, name="proj_out")(h).reshape(x.shape))


class GuidedUNet(nn.Module):
    """image (B, H, W, C), time (B,) in 0..1, condition (B, H, W, C) -> (B, H, W, out_channels), float32. A fresh network returns zeros.

    Attributes:
      num_classes: of no meaning here.
      dim: features of the first level; `mults` times as many at each level, which halves the sides.
      depth: residual blocks a level (one more on the way up).
      attention_at: by how much the sides are halved where there is attention: 16 stands for 16 x 16 of 256 x 256 pixels.
      conditional: whether a condition of as many channels as the image is joined behind it.
      out_channels: 6 as in diffusion with learned variances; a velocity takes the first C.
      time_scale: what the time is multiplied by before its embedding.
      remat: compute the blocks again in the backward pass instead of keeping what is inside them.

    Sides must be multiples of 2^(levels - 1).
    """

    num_classes: int = 0
    image_size: tuple[int, ...] = (256, 256)
    dim: int = 128
    mults: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    depth: int = 1
    attention_at: tuple[int, ...] = (16,)
    head_width: int = 64
    groups: int = 32
    conditional: bool = True
    out_channels: int = 6
    time_scale: float = 999.0
    dropout: float = 0.1
    remat: bool = False
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
    ) -> Float[Array, "b h w d"]:
        """`time` None is 0, `condition` None is zeros, the mean grey: enough to learn shapes from."""
        smallest = 2 ** (len(self.mults) - 1)
        if image.shape[1] % smallest or image.shape[2] % smallest:
            size = f"{image.shape[1]} x {image.shape[2]}"
            raise ModelError(f"images of {size} pixels do not halve {len(self.mults) - 1} times; take multiples of {smallest}")
        if condition is not None and not self.conditional:
            raise ModelError("this network takes no condition; set model.conditional=True")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        ResBlock_, Attention_ = (ResBlock, AttentionBlock) if not self.remat else (nn.remat(ResBlock, static_argnums=(3,)), nn.remat(AttentionBlock))

        def block(name: str, x, features: int, resample: str = ""):
            return ResBlock_(features, resample, self.dropout, self.groups, **dtypes, name=name)(x, emb, train)

        def attend(name: str, x):
            return Attention_(self.head_width, self.groups, **dtypes, name=name)(x)

        time = jnp.zeros(image.shape[:1]) if time is None else time
        emb = timestep_embedding(time * self.time_scale, self.dim)
        for name in ("time_embed_0", "time_embed_2"):
            emb = nn.Dense(4 * self.dim, kernel_init=TORCH_INIT, param_dtype=self.param_dtype, name=name)(emb)
            emb = nn.silu(emb) if name == "time_embed_0" else emb

        if self.conditional:
            image = jnp.concatenate([image, jnp.zeros_like(image) if condition is None else condition], -1)
        x = Conv(self.dim * self.mults[0], 3, kernel_init=TORCH_INIT, **dtypes, name="input_blocks_0_0")(image)
        kept, number = [x], 1
        for level, mult in enumerate(self.mults):
            for _ in range(self.depth):
                x = block(f"input_blocks_{number}_0", x, self.dim * mult)
                x = attend(f"input_blocks_{number}_1", x) if 2**level in self.attention_at else x
                kept, number = [*kept, x], number + 1
            if level < len(self.mults) - 1:
                x = block(f"input_blocks_{number}_0", x, self.dim * mult, "down")
                kept, number = [*kept, x], number + 1
        x = block("middle_block_0", x, x.shape[-1])
        x = block("middle_block_2", attend("middle_block_1", x), x.shape[-1])
        number = 0
        for level, mult in reversed(list(enumerate(self.mults))):
            for last in [False] * self.depth + [True]:
                x = block(f"output_blocks_{number}_0", jnp.concatenate([x, kept.pop()], -1), self.dim * mult)
                attends = 2**level in self.attention_at
                x = attend(f"output_blocks_{number}_1", x) if attends else x
                x = block(f"output_blocks_{number}_{1 + attends}", x, self.dim * mult, "up") if last and level else x
                number += 1
        x = nn.silu(GroupNorm(self.groups, param_dtype=self.param_dtype, name="out_0")(x))
        x = Conv(self.out_channels, 3, kernel_init=nn.initializers.zeros, **dtypes, name="out_2")(x)
        return x.astype(jnp.float32)


_PIXELS = {"image_size": (256, 256), "mean": INCEPTION_MEAN, "std": INCEPTION_STD, "crop": 1.0, "classes": 0}
_LARGE = {"dim": 256, "depth": 2, "attention_at": (8, 16, 32)}
VARIANTS = {
    # FFHQ and DIV2K, with and without the condition; ImageNet likewise.
    "oftsr_unet_128": Variant(GuidedUNet, {}, parameters=93_567_366, **_PIXELS),
    "guided_unet_128": Variant(GuidedUNet, {"conditional": False}, parameters=93_563_910, **_PIXELS),
    "oftsr_unet_256": Variant(GuidedUNet, _LARGE, parameters=552_820_998, **_PIXELS),
    "guided_unet_256": Variant(GuidedUNet, {**_LARGE, "conditional": False}, parameters=552_814_086, **_PIXELS),
}


def _from_conv1d(arrays, shape):
    (array,) = arrays
    return array.reshape(array.shape[:2]).T


_ATTENTION = {"load": _from_conv1d, "save": lambda array: (array.T[..., None],)}
CHECKPOINT = {
    "torch": (
        Rule(r"(input|output)_blocks_(\d+)_(\d+)/(qkv|proj_out)/kernel", r"\1_blocks.\2.\3.\4.kernel", **_ATTENTION),
        Rule(r"middle_block_1/(qkv|proj_out)/kernel", r"middle_block.1.\1.kernel", **_ATTENTION),
        Rule(r"(input|output)_blocks_(\d+)_(\d+)/(\w+)_layers_(\d)/(\w+)", r"\1_blocks.\2.\3.\4_layers.\5.\6"),
        Rule(r"(input|output)_blocks_(\d+)_(\d+)/(skip_connection|norm|qkv|proj_out)/(\w+)", r"\1_blocks.\2.\3.\4.\5"),
        Rule(r"input_blocks_0_0/(\w+)", r"input_blocks.0.0.\1"),
    )
}

# The order in which torch lists the parameters: modules as the constructor makes them, weights before biases.
_ORDER = ("time_embed", "input_blocks", "middle_block", "output_blocks", "out", "in_layers", "emb_layers", "out_layers", "skip_connection")
_ORDER = (*_ORDER, "norm", "qkv", "proj_out", "weight", "bias")


def parameter_order(model: GuidedUNet) -> list[str]:
    """torch's names of all parameters, in the order of its `parameters()`."""
    shapes = {name: leaf.shape for name, leaf in named_leaves(shapes_of(model)["params"]).items()}
    names = [name for entry in rules.entries(shapes, CHECKPOINT["torch"], "torch").values() for name in entry.names]
    place = lambda word: (0, int(word)) if word.isdecimal() else (1, _ORDER.index(word))
    return sorted(names, key=lambda name: [place(word) for word in name.split(".")])


def adapt_checkpoint(arrays: Mapping[str, np.ndarray], layout: str, model: GuidedUNet) -> dict[str, np.ndarray]:
    """Lists without names ("shadow_params.17", of averaged weights) with the names that their order means.

    A network of images alone becomes one with a condition as OFTSR begins: the kernel of its first convolution is drawn anew, for twice the channels.

    Raises CheckpointError when a list is not as long as the network's.
    """
    arrays = _named(arrays, model)
    first = "input_blocks.0.0.weight"
    if model.conditional and first in arrays and arrays[first].shape[1] == 3:
        d, c, *space = arrays[first].shape
        arrays[first] = np.moveaxis(np.asarray(TORCH_INIT(jax.random.key(0), (*space, 2 * c, d), jnp.float32)), (2, 3), (1, 0))
    return arrays


def _named(arrays: Mapping[str, np.ndarray], model: GuidedUNet) -> dict[str, np.ndarray]:
    listed = {int(match[1]): array for name, array in arrays.items() if (match := re.fullmatch(r"shadow_params\.(\d+)", name))}
    if not listed:
        return dict(arrays)
    order = parameter_order(model)
    if len(listed) != len(order):
        raise CheckpointError(f"the file lists {len(listed)} arrays without names, the network has {len(order)}: it is another variant's")
    return {name: listed[number] for number, name in enumerate(order)}
