"""MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601): patches are mixed by an MLP across tokens, then by an MLP across channels, and nothing else.

Where we differ: names, sizes and the exact GELU are timm's; the JAX releases were trained with the tanh approximation (`activation="gelu_tanh"`).
The token MLPs have as many inputs as there are patches, so a model takes images of its own `image_size` only, and weights of one size cannot be
brought to another.
"""

import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.blocks import make_blocks, quarters, run_blocks
from jaxvision.nn.mlp import ACTIVATIONS, Mlp, gelu
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.patch import PatchEmbed, patch_grid
from jaxvision.nn.regularize import DropPath
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap


class Block(nn.Module):
    """x + mlp across tokens, then x + mlp across channels, each of norm(x). Taps `out`, the block's output (B, T, d)."""

    token_hidden: int
    channel_hidden: int
    dropout: float = 0.0
    activation: Callable = gelu
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], rate: float | Float[Array, ""] | None, train: bool) -> Float[Array, "b t d"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inits = {"kernel_init": nn.initializers.lecun_normal(), "bias_init": nn.initializers.zeros}
        y = LayerNorm(name="norm1", **types)(x).swapaxes(1, 2)
        y = Mlp(self.token_hidden, activation=self.activation, dropout=self.dropout, name="mlp_tokens", **inits, **types)(y, train=train)
        x = residual(x, DropPath(name="drop_path1")(y.swapaxes(1, 2), train=train, rate=rate))
        y = LayerNorm(name="norm2", **types)(x)
        y = Mlp(self.channel_hidden, activation=self.activation, dropout=self.dropout, name="mlp_channels", **inits, **types)(y, train=train)
        x = residual(x, DropPath(name="drop_path2")(y, train=train, rate=rate))
        tap(self, "out", lambda: x)
        return x


class MlpMixer(nn.Module):
    """Logits (B, num_classes) of images (B, H, W, C) of `image_size`, any number of channels; float32.

    Attributes:
      num_classes: 0 gives pooled features (B, dim).
      image_size: (H, W), multiples of `patch`; it sets the widths of the token MLPs.
      patch, dim, depth: pixels a patch side, width, blocks.
      token_ratio, channel_ratio: inner widths of the two MLPs over `dim`.
      dropout, drop_path: rates inside the MLPs, and of the deepest block's branches.
      activation: "gelu" (exact), "gelu_tanh", "relu" or "silu".
      remat, scan: recompute blocks in the backward pass; scan over stacked blocks (see vit.py).
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    dim: int = 512
    depth: int = 8
    token_ratio: float = 0.5
    channel_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    activation: str = "gelu"
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.activation not in ACTIVATIONS:
            raise ModelError(f"model.activation is {self.activation!r}; {nearest(self.activation, ACTIVATIONS)}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stem = PatchEmbed(self.patch, self.dim, **types)
        self.blocks = make_blocks(
            Block, self.depth, remat=self.remat, scan=self.scan, token_hidden=int(self.dim * self.token_ratio),
            channel_hidden=int(self.dim * self.channel_ratio), dropout=self.dropout, activation=ACTIVATIONS[self.activation], **types,
        )  # fmt: skip
        self.norm = LayerNorm(**types)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, dtype=jnp.float32, param_dtype=self.param_dtype)

    def _encode(self, image, train: bool, keep: tuple[int, ...] = ()):
        size, wanted = tuple(image.shape[1:3]), tuple(self.image_size)
        grid = patch_grid(wanted, self.patch)
        if size != wanted:
            raise ModelError(
                f"the token MLPs are made for images of {wanted[0]}x{wanted[1]}, got {size[0]}x{size[1]}: create the model with image_size={size}"
            )
        x = self.stem(image).reshape(image.shape[0], grid[0] * grid[1], self.dim)
        x, kept = run_blocks(self.blocks, x, depth=self.depth, drop_path=self.drop_path, train=train, keep=keep)
        return x, kept, grid

    def tokens(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b t d"]:
        """All tokens after the last norm."""
        return self.norm(self._encode(image, train)[0])

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b k"]:
        x = self.tokens(image, train=train).astype(jnp.float32).mean(1)
        return self.head(x) if self.num_classes else x

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b h2 w2 d"], ...]:
        """Tokens as maps (B, H / patch, W / patch, dim) after each quarter of the depth, not normalized; all have one resolution."""
        _, kept, grid = self._encode(image, train, quarters(self.depth))
        return tuple(x.reshape(x.shape[0], *grid, self.dim) for x in kept)


CHECKPOINT = {
    "torch": (),
    "npz": (
        Rule(r"stem/proj/(\w+)", r"stem/\1"),
        Rule(r"blocks_(\d+)/norm1/(\w+)", r"MixerBlock_\1/LayerNorm_0/\2"),
        Rule(r"blocks_(\d+)/norm2/(\w+)", r"MixerBlock_\1/LayerNorm_1/\2"),
        Rule(r"blocks_(\d+)/mlp_tokens/fc1/(\w+)", r"MixerBlock_\1/token_mixing/Dense_0/\2"),
        Rule(r"blocks_(\d+)/mlp_tokens/fc2/(\w+)", r"MixerBlock_\1/token_mixing/Dense_1/\2"),
        Rule(r"blocks_(\d+)/mlp_channels/fc1/(\w+)", r"MixerBlock_\1/channel_mixing/Dense_0/\2"),
        Rule(r"blocks_(\d+)/mlp_channels/fc2/(\w+)", r"MixerBlock_\1/channel_mixing/Dense_1/\2"),
        Rule(r"norm/(\w+)", r"pre_head_layer_norm/\1"),
    ),
}
# Names of the files written before linen, brought to those of CHECKPOINT.
_OLD_NAMES = (
    (r"^embedding/", "stem/"),
    (r"^Mixer/encoder_norm/", "pre_head_layer_norm/"),
    (r"^Mixer/encoderblock_(\d+)/", r"MixerBlock_\1/"),
    (r"/(token|channel)_mixing_phase_0/(kernel|bias)1$", r"/\1_mixing/Dense_0/\2"),
    (r"/(token|channel)_mixing_phase_0/(kernel|bias)2$", r"/\1_mixing/Dense_1/\2"),
)


def adapt_checkpoint(arrays: dict[str, np.ndarray], layout: str, model: MlpMixer) -> dict[str, np.ndarray]:
    """The arrays of a file under the names that CHECKPOINT uses (the older npz files have names of their own)."""
    if layout != "npz":
        return arrays
    adapted = {}
    for name, array in arrays.items():
        for old, new in _OLD_NAMES:
            name = re.sub(old, new, name)
        adapted[name] = array
    return adapted


def _variant(patch: int, dim: int, depth: int, parameters: int) -> Variant:
    return Variant(
        MlpMixer, {"patch": patch, "dim": dim, "depth": depth}, mean=INCEPTION_MEAN, std=INCEPTION_STD, crop=0.875, parameters=parameters
    )


VARIANTS = {
    "mixer_s32_224": _variant(32, 512, 8, 19_104_624),
    "mixer_s16_224": _variant(16, 512, 8, 18_528_264),
    "mixer_s8_224": _variant(8, 512, 8, 20_646_504),
    "mixer_b32_224": _variant(32, 768, 12, 60_293_428),
    "mixer_b16_224": _variant(16, 768, 12, 59_880_472),
    "mixer_b8_224": _variant(8, 768, 12, 64_864_168),
    "mixer_l32_224": _variant(32, 1024, 24, 206_939_264),
    "mixer_l16_224": _variant(16, 1024, 24, 208_196_168),
}
