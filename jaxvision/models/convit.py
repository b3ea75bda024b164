"""ConViT (d'Ascoli et al. 2021, arXiv 2103.10697).

A DeiT whose first layers attend by content and by position, mixed by a gate a head. The positional part starts as a convolution, one offset a head,
and each head may learn to leave it. The class token joins where these layers end.

Where we differ: the grid of patches may have any shape (the public code takes squares), and the division of mixed weights by their sum, which is 1,
is left out. Content attention is the library's fused one; positional weights depend on no image, so they are computed once a batch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.attention import self_attention
from jaxvision.models.registry import Variant
from jaxvision.nn.attention import Attention, weights_of
from jaxvision.nn.blocks import quarters
from jaxvision.nn.classifier import Classifier, torch_bias, torch_kernel
from jaxvision.nn.mlp import Mlp, mlp_residual
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.patch import PatchEmbed, patch_grid
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.position import resize_position
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap

init = nn.initializers.truncated_normal(0.02)


def offsets(rows: int, columns: int) -> Float[np.ndarray, "n n 3"]:
    """(dx, dy, dx^2 + dy^2) in patches, from the query (first axis) to the key."""
    y, x = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
    dx, dy = (axis[None] - axis[:, None] for axis in (x, y))
    return np.stack([dx, dy, dx**2 + dy**2], axis=-1).astype(np.float32)


def local_kernel(heads: int, strength: float):
    """Initializer of `pos_proj`: head h1 + k h2 looks h1 - c rows and h2 - c columns away, k x k the largest square of heads, c its centre.

    Heads beyond the square keep a random start, times `strength`.
    """

    def make(key, shape, dtype=jnp.float32):
        side = int(heads**0.5)
        centre = (side - 1) / 2 if side % 2 == 0 else side // 2
        down, right = np.arange(side**2) % side - centre, np.arange(side**2) // side - centre
        kernel = init(key, shape, dtype)
        return strength * kernel.at[:, : side**2].set(jnp.asarray(np.stack([2 * right, 2 * down, -np.ones(side**2)]), dtype))

    return make


class GatedPositionalAttention(nn.Module):
    """(1 - s) softmax(q k^T / sqrt(width)) v + s softmax(W r + b) v, s = sigmoid(gate), one gate a head, r the offsets of a `grid` of patches.

    Taps `weights` (B, heads, T, T), the mixture, float32.
    """

    heads: int
    grid: tuple[int, int]
    local_init: bool = True
    locality_strength: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], *, train: bool = False) -> Float[Array, "b t d"]:
        b, t, dim = x.shape
        plain = functools.partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        identity = lambda key, shape, dtype=jnp.float32: jnp.eye(*shape, dtype=dtype)
        qk = plain(2 * dim, use_bias=False, kernel_init=init, name="qk")(x)
        v = plain(dim, use_bias=False, kernel_init=identity if self.local_init else init, name="v")(x)
        start = local_kernel(self.heads, self.locality_strength) if self.local_init else init
        position = Dense(self.heads, kernel_init=start, param_dtype=self.param_dtype, name="pos_proj")(jnp.asarray(offsets(*self.grid)))
        position = jax.nn.softmax(position.transpose(2, 0, 1), axis=-1)
        share = jax.nn.sigmoid(self.param("gating_param", nn.initializers.ones, (self.heads,), self.param_dtype).astype(jnp.float32))
        qkv = jnp.concatenate([qk, v], axis=-1)
        mix = lambda content: (1 - share[:, None, None]) * content + (share[:, None, None] * position)
        tap(self, "weights", lambda: mix(weights_of(qkv, self.heads)))
        split = lambda y: y.reshape(b, t, self.heads, dim // self.heads)
        content = split(self_attention(qkv, self.heads)) * (1 - share[:, None]).astype(self.dtype)
        local = jnp.einsum("hij,bjhd->bihd", (share[:, None, None] * position).astype(self.dtype), split(v))
        return plain(dim, kernel_init=init, name="proj")((content + local).reshape(b, t, dim))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Taps `out`."""

    heads: int
    attention: functools.partial
    drop_path: float = 0.0
    dropout: float = 0.0
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], train: bool) -> Float[Array, "b t d"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inits = {"kernel_init": init, "bias_init": nn.initializers.zeros}
        mlp = Mlp(int(self.mlp_ratio * x.shape[-1]), dropout=self.dropout, **inits, **types, name="mlp")
        norms = [LayerNorm(name=f"norm{i}", **types) for i in (1, 2)]
        drops = [DropPath(self.drop_path, name=f"drop_path{i}") for i in (1, 2)]
        x = residual(x, drops[0](self.attention(name="attn")(norms[0](x), train=train), train=train))
        x = mlp_residual(x, norms[1], mlp, drops[1], train=train)
        tap(self, "out", lambda: x)
        return x


class ConViT(nn.Module):
    """Logits (B, num_classes) float32; with num_classes=0 the normalized class token (B, dim).

    Attributes:
      image_size: (H, W), multiples of `patch`; it sets the length of the position table, so images have this size.
      patch, dim, depth, heads, mlp_ratio: as in a vision transformer.
      local_layers: how many layers, from the first, are gated positional ones; 0 for a plain transformer without a class token's position.
      local_init: whether they start as convolutions; `locality_strength`: how sharply a head looks at one patch then.
      dropout, drop_path: of the MLPs; of the deepest block, the others' rise linearly from 0.
      remat: recompute each block in the backward pass.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 4
    mlp_ratio: float = 4.0
    local_layers: int = 10
    local_init: bool = True
    locality_strength: float = 1.0
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b k"]:
        return self._run(image, train, head=True)

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b h2 w2 d"], ...]:
        """Patch tokens as maps (B, H / patch, W / patch, dim) after each quarter of the depth, not normalized; all have one resolution."""
        return self._run(image, train, head=False)

    @nn.compact
    def _run(self, image, train: bool, head: bool):
        size, wanted = tuple(image.shape[1:3]), tuple(self.image_size)
        if size != wanted:
            given = f"{size[0]}x{size[1]}"
            raise ModelError(f"the position table is made for {wanted[0]}x{wanted[1]}, got {given}: create the model with image_size={size}")
        if self.dim % self.heads:
            raise ModelError(f"model.heads={self.heads} does not divide model.dim={self.dim}")
        if not 0 <= self.local_layers < self.depth:
            raise ModelError(f"model.local_layers={self.local_layers}: the class token needs a plain layer, so it is at most {self.depth - 1}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        grid = patch_grid(size, self.patch)
        fan_in = self.patch**2 * image.shape[-1]
        x = PatchEmbed(self.patch, self.dim, kernel_init=torch_kernel, bias_init=torch_bias(fan_in), **types, name="patch_embed")(image)
        x = x.reshape(x.shape[0], -1, self.dim) + self.param("pos_embed", init, (1, grid[0] * grid[1], self.dim), self.param_dtype).astype(self.dtype)
        token = self.param("cls_token", init, (1, 1, self.dim), self.param_dtype).astype(self.dtype)
        block, maps = nn.remat(Block, static_argnums=(2,)) if self.remat else Block, {}
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            if i == self.local_layers:
                x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.dim)), x], axis=1)
            if i < self.local_layers:
                attention = functools.partial(GatedPositionalAttention, self.heads, grid, self.local_init, self.locality_strength, **types)
            else:
                attention = functools.partial(Attention, self.heads, qkv_bias=False, kernel_init=init, **types)
            x = block(self.heads, attention, rate, self.dropout, self.mlp_ratio, **types, name=f"blocks_{i}")(x, train)
            maps[i] = x[:, i >= self.local_layers :].reshape(x.shape[0], *grid, self.dim)
        if not head:
            return tuple(maps[i] for i in quarters(self.depth))
        x = LayerNorm(**types, name="norm")(x)[:, 0].astype(jnp.float32)
        return Classifier(self.num_classes, init, nn.initializers.zeros, self.param_dtype, name="head")(x) if self.num_classes else x


def _resize_pos_embed(value, old: ConViT, new: ConViT):
    return resize_position(value, patch_grid(old.image_size, old.patch), patch_grid(new.image_size, new.patch))


SIZE_DEPENDENT = ((r"pos_embed", _resize_pos_embed),)
CHECKPOINT = {"torch": ()}


def _variant(heads: int, width: int, parameters: int) -> Variant:
    return Variant(ConViT, {"heads": heads, "dim": heads * width}, parameters=parameters)


VARIANTS = {
    "convit_tiny": _variant(4, 48, 5_710_512),
    "convit_tiny_plus": _variant(4, 64, 9_972_912),
    "convit_small": _variant(9, 48, 27_777_322),
    "convit_small_plus": _variant(9, 64, 48_979_882),
    "convit_base": _variant(16, 48, 86_540_040),
    "convit_base_plus": _variant(16, 64, 153_134_856),
}
