"""BEiT (Bao et al. 2022, arXiv 2106.08254) and BEiT v2 (Peng et al. 2022, arXiv 2208.06366), as fine-tuned classifiers.

A vision transformer without a position table: each block has a bias for each relative position of two patches instead, and three more for pairs with
the class token. Keys have no bias, branches are scaled channel by channel, and what is classified is the mean of the patch tokens, normalized.

Names, shapes and the exact GELU are timm's. The biases belong to the grid of `image_size`; another size resizes them between positions that lie the
further apart the further they are from the centre: linearly as timm does, or by cubic splines as the authors' script and OpenMMLab do, as
`table_resize` says. A file whose blocks share one table, as pre-training leaves it, gives each block a copy.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int
from scipy.interpolate import make_interp_spline

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.attention import self_attention
from jaxvision.kernels.wide import scale_by
from jaxvision.models.registry import IMAGENET_MEAN, IMAGENET_STD, INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.nn.attention import QKV, weights_of
from jaxvision.nn.blocks import make_blocks, quarters, run_blocks
from jaxvision.nn.mlp import Mlp, mlp_residual
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.patch import PatchEmbed, patch_grid
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.regularize import DropPath
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap
from jaxvision.nn.window import relative_position_index

# The published code draws from a normal cut at +-2, which is a hundred standard deviations away.
init = nn.initializers.normal(0.02)
# Rows of a table after those of pairs of patches: class token to patch, patch to class token, class token to itself.
EXTRA = 3


@functools.cache
def position_index(grid: tuple[int, int]) -> Int[np.ndarray, "t t"]:
    """Row of the table for each pair of tokens, the class token first."""
    patches = relative_position_index(grid)
    index = np.empty((patches.shape[0] + 1,) * 2, patches.dtype)
    rows = (2 * grid[0] - 1) * (2 * grid[1] - 1)
    index[1:, 1:] = patches
    index[0], index[:, 0], index[0, 0] = rows, rows + 1, rows + 2
    return index


def _progression(old: int, new: int) -> np.ndarray:
    """Where `old` values (odd) lie among `new` ones: 0 in the middle, outwards at steps that grow by one ratio, the last at the end."""
    side, low, high = old // 2, 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**side) / (1 - ratio) > new // 2 else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(side))
    return np.concatenate([-steps[::-1], [0.0], steps])


def _linear(at: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "new old"]:
    return np.stack([np.interp(at, places, row) for row in np.eye(len(places))], axis=1)


def _cubic(at: np.ndarray, places: np.ndarray) -> Float[np.ndarray, "new old"]:
    """By the spline that has no knot at the second and last but one place; beyond the places it keeps its last value."""
    if len(places) < 4:
        raise ModelError(f"a cubic spline needs 4 places, the table has {len(places)} a side: set model.table_resize='linear'")
    return make_interp_spline(places, np.eye(len(places)), k=3)(np.clip(at, places[0], places[-1]))


RESIZE = {"linear": _linear, "cubic": _cubic}


def _interpolation(old: int, new: int, method: str) -> Float[np.ndarray, "new old"]:
    return np.eye(old) if old == new else RESIZE[method](np.arange(new) - new // 2, _progression(old, new))


def resize_table(table: Float[np.ndarray, "p n"], old: tuple[int, int], new: tuple[int, int], method: str = "linear") -> Float[np.ndarray, "q n"]:
    """A table of a grid of `old` (rows, columns) of patches for one of `new`, by a `method` of RESIZE.

    Raises ModelError when the table is not of that size, or too small for a cubic spline.
    """
    (h, w), (h2, w2) = (tuple(2 * side - 1 for side in grid) for grid in (old, new))
    if table.shape[0] != h * w + EXTRA:
        raise ModelError(f"a relative-position table of {table.shape[0]} rows is not that of {old[0]}x{old[1]} patches and a class token")
    down, across = (_interpolation(*sides, method).astype(np.float32) for sides in ((h, h2), (w, w2)))
    patches = np.einsum("ah,hwn,bw->abn", down, np.asarray(table[:-EXTRA], np.float32).reshape(h, w, -1), across)
    return np.concatenate([patches.reshape(h2 * w2, -1).astype(table.dtype), np.asarray(table[-EXTRA:])])


class BeitAttention(nn.Module):
    """Self-attention with a bias a relative position of a `grid` of patches; queries and values have biases, keys none.

    Taps `weights` (B, heads, T, T), float32.
    """

    heads: int
    grid: tuple[int, int]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], norm: LayerNorm) -> Float[Array, "b t d"]:
        dim, types = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        rows = (2 * self.grid[0] - 1) * (2 * self.grid[1] - 1) + EXTRA
        table = self.param("relative_position_bias_table", nn.initializers.zeros, (rows, self.heads), self.param_dtype)
        bias = table.astype(jnp.float32)[position_index(self.grid)].transpose(2, 0, 1)[None]
        q, v = (self.param(name, nn.initializers.zeros, (dim,), self.param_dtype) for name in ("q_bias", "v_bias"))
        offset = jnp.concatenate([q, jnp.zeros_like(q), v]).astype(self.dtype)
        qkv, shift = QKV(3 * dim, False, init, **types, name="qkv")(x, norm)
        # Keys have none of their own, but the norm's where it is one op with the product.
        offset = offset if shift is None else offset + shift
        tap(self, "weights", lambda: weights_of(qkv, self.heads, bias, offset=offset))
        return Dense(dim, kernel_init=init, **types, name="proj")(self_attention(qkv, self.heads, bias, offset=offset))


class BeitBlock(nn.Module):
    """x + gamma_1 attention(norm1(x)), then x + gamma_2 mlp(norm2(x)). Taps `out`, the block's output (B, T, d)."""

    heads: int
    grid: tuple[int, int]
    mlp_hidden: int
    dropout: float
    layer_scale: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], rate: float | Float[Array, ""] | None, train: bool) -> Float[Array, "b t d"]:
        types, constant = {"dtype": self.dtype, "param_dtype": self.param_dtype}, nn.initializers.constant(self.layer_scale)
        mlp = Mlp(self.mlp_hidden, dropout=self.dropout, kernel_init=init, bias_init=nn.initializers.zeros, **types, name="mlp")
        norms = [LayerNorm(name=f"norm{i}", **types) for i in (1, 2)]
        drops = [DropPath(name=f"drop_path{i}") for i in (1, 2)]
        gains = [self.param(f"gamma_{i}", constant, (x.shape[-1],), self.param_dtype) for i in (1, 2)]
        y = BeitAttention(self.heads, self.grid, **types, name="attn")(x, norms[0])
        x = residual(x, drops[0](scale_by(y, gains[0]), train=train, rate=rate))
        x = mlp_residual(x, norms[1], mlp, drops[1], train=train, gain=gains[1], rate=rate)
        tap(self, "out", lambda: x)
        return x


class Beit(nn.Module):
    """Logits (B, num_classes) of images (B, H, W, C) of `image_size`, any number of channels; float32.

    Attributes:
      num_classes: 0 gives pooled features (B, dim).
      image_size: (H, W), multiples of `patch`; it sets the length of the tables.
      patch, dim, depth, heads, mlp_ratio: pixels a patch side, width, blocks, attention heads, inner over outer width of the MLP.
      dropout, drop_path: rates inside the MLPs, and of the deepest block's branches.
      layer_scale: initial value of the branches' factors; 0.1 for the base size and 1e-5 for the large one as published.
      table_resize: how the tables of another size are brought to this one, "linear" or "cubic".
      remat: recompute each block in the backward pass.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float = 0.1
    table_resize: str = "linear"
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        if self.dim % self.heads:
            raise ModelError(f"model.heads={self.heads} does not divide model.dim={self.dim}")
        if self.table_resize not in RESIZE:
            raise ModelError(f"model.table_resize is {self.table_resize!r}; {nearest(self.table_resize, RESIZE)}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.patch_embed = PatchEmbed(self.patch, self.dim, **types)
        self.cls_token = self.param("cls_token", init, (1, 1, self.dim), self.param_dtype)
        self.blocks = make_blocks(
            BeitBlock, self.depth, remat=self.remat, scan=False, heads=self.heads, grid=patch_grid(self.image_size, self.patch),
            mlp_hidden=int(self.dim * self.mlp_ratio), dropout=self.dropout, layer_scale=self.layer_scale, **types,
        )  # fmt: skip
        self.fc_norm = LayerNorm(**types)
        if self.num_classes:
            # As published: drawn as the rest and divided by a thousand.
            self.head = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(2e-5), dtype=jnp.float32, param_dtype=self.param_dtype)

    def _encode(self, image, train: bool, keep: tuple[int, ...] = ()):
        size, wanted = tuple(image.shape[1:3]), tuple(self.image_size)
        rows, columns = patch_grid(wanted, self.patch)
        if size != wanted:
            raise ModelError(
                f"the tables of relative positions are made for images of {wanted[0]}x{wanted[1]}, got {size[0]}x{size[1]}: create the model with "
                f"image_size={size}"
            )
        x = self.patch_embed(image).reshape(image.shape[0], rows * columns, self.dim)
        token = jnp.broadcast_to(self.cls_token.astype(self.dtype), (x.shape[0], 1, self.dim))
        x = jnp.concatenate([token, x], axis=1)
        x, kept = run_blocks(self.blocks, x, depth=self.depth, drop_path=self.drop_path, train=train, keep=keep)
        return x, kept, (rows, columns)

    def tokens(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b t d"]:
        """All tokens after the last block, the class token first, not normalized."""
        return self._encode(image, train)[0]

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b k"]:
        x = self.tokens(image, train=train)[:, 1:].astype(jnp.float32).mean(1)
        x = self.fc_norm(x).astype(jnp.float32)
        return self.head(x) if self.num_classes else x

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b h2 w2 d"], ...]:
        """Patch tokens as maps (B, H / patch, W / patch, dim) after each quarter of the depth, not normalized; all have one resolution."""
        _, kept, grid = self._encode(image, train, quarters(self.depth))
        return tuple(x[:, 1:].reshape(x.shape[0], *grid, self.dim) for x in kept)


def _resize(value, old: Beit, new: Beit):
    return resize_table(value, *(patch_grid(model.image_size, model.patch) for model in (old, new)), new.table_resize)


def adapt_checkpoint(arrays: dict[str, np.ndarray], layout: str, model: Beit) -> dict[str, np.ndarray]:
    """A table that all blocks share becomes each block's own."""
    shared = "rel_pos_bias.relative_position_bias_table"
    if shared not in arrays:
        return arrays
    own = {f"blocks.{i}.attn.relative_position_bias_table": arrays[shared] for i in range(model.depth)}
    return {**{name: array for name, array in arrays.items() if name != shared}, **own}


SIZE_DEPENDENT = ((r"blocks_\d+/attn/relative_position_bias_table", _resize),)
CHECKPOINT = {"torch": ()}
_LARGE = {"dim": 1024, "depth": 24, "heads": 16, "layer_scale": 1e-5}
_V2 = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def _variant(fields: dict, side: int, parameters: int, crop: float, **constants) -> Variant:
    return Variant(Beit, fields, (side, side), parameters=parameters, crop=crop, **{"mean": INCEPTION_MEAN, "std": INCEPTION_STD, **constants})


VARIANTS = {
    "beit_base_patch16_224": _variant({}, 224, 86_530_984, 0.9),
    "beit_base_patch16_384": _variant({}, 384, 86_744_104, 1.0),
    "beit_large_patch16_224": _variant(_LARGE, 224, 304_430_568, 0.9),
    "beit_large_patch16_384": _variant(_LARGE, 384, 304_998_888, 1.0),
    "beit_large_patch16_512": _variant(_LARGE, 512, 305_674_728, 1.0),
    "beitv2_base_patch16_224": _variant({"layer_scale": 1e-5}, 224, 86_530_984, 0.9, **_V2),
    "beitv2_large_patch16_224": _variant(_LARGE, 224, 304_430_568, 0.95, **_V2),
}
