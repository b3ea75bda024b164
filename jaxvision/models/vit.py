"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), with the pooled form of Beyer et al. 2022 (arXiv 2205.01580), DeiT with its
distillation token (Touvron et al. 2021, arXiv 2012.12877), DeiT III (arXiv 2204.07118), and EVA's large size (Fang et al. 2023, arXiv 2211.07636).

Patches become tokens, and pre-norm transformer blocks let every token look at every other one; a class token or the mean of the tokens is classified.

Where we differ: names, sizes and the exact GELU are timm's; the JAX releases were trained with the tanh approximation, so set
`activation="gelu_tanh"` to continue their training (logits move by about 1e-3). Logits are computed in float32. A model with learned positions
takes images of its own `image_size` only, so that nothing is resized unseen: build it at the size you need and let `load_pretrained` or a phase
resize the table.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.wide import scale_by
from jaxvision.models.registry import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.models.vit_checkpoint import CHECKPOINT, SIZE_DEPENDENT, adapt_checkpoint
from jaxvision.nn.attention import Attention
from jaxvision.nn.blocks import make_blocks, quarters, run_blocks
from jaxvision.nn.mlp import ACTIVATIONS, Mlp, gelu, mlp_residual
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.patch import PatchEmbed, patch_grid
from jaxvision.nn.position import resize_position, sincos_2d
from jaxvision.nn.regularize import DropPath, LayerScale
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap

# What the published code starts training from: patch kernel, block kernels, biases of the MLP, class token, head.
INITIALIZERS = {
    "jax": (
        nn.initializers.lecun_normal(), nn.initializers.xavier_uniform(), nn.initializers.normal(1e-6), nn.initializers.zeros, nn.initializers.zeros,
    ),
    "deit": (
        nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), nn.initializers.normal(0.02), nn.initializers.zeros,
        nn.initializers.normal(0.02), nn.initializers.normal(0.02),
    ),
}  # fmt: skip
# What interop looks for in a model's file.
__all__ = ["CHECKPOINT", "SIZE_DEPENDENT", "VARIANTS", "VisionTransformer", "adapt_checkpoint"]
CHOICES = {"pool": ("token", "avg"), "position": ("learned", "sincos2d"), "activation": ACTIVATIONS, "initializer": INITIALIZERS}


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Taps `out`, the block's output (B, T, d)."""

    heads: int
    mlp_hidden: int
    qkv_bias: bool = True
    dropout: float = 0.0
    layer_scale: float | None = None
    activation: Callable = gelu
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], rate: float | Float[Array, ""] | None, train: bool) -> Float[Array, "b t d"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inits, gains = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}, (None, None)
        attention = Attention(self.heads, self.qkv_bias, self.dropout, self.kernel_init, name="attn", **types)
        mlp = Mlp(self.mlp_hidden, activation=self.activation, dropout=self.dropout, name="mlp", **inits, **types)
        norms = [LayerNorm(name=f"norm{i}", **types) for i in (1, 2)]
        drops = [DropPath(name=f"drop_path{i}") for i in (1, 2)]
        if self.layer_scale is not None:
            gains = [LayerScale(self.layer_scale, name=f"ls{i}", **types).factors(x.shape[-1]) for i in (1, 2)]
        y = attention(x, norm=norms[0], train=train)
        x = residual(x, drops[0](y if gains[0] is None else scale_by(y, gains[0]), train=train, rate=rate))
        x = mlp_residual(x, norms[1], mlp, drops[1], train=train, gain=gains[1], rate=rate)
        tap(self, "out", lambda: x)
        return x


class VisionTransformer(nn.Module):
    """Logits (B, num_classes) of images (B, H, W, C), any number of channels; float32.

    Attributes:
      num_classes: 0 gives pooled features (B, dim), or (B, rep_size).
      image_size: (H, W), multiples of `patch`; it sets the length of a learned position table.
      patch, dim, depth, heads, mlp_ratio: pixels a patch side, width, blocks, attention heads, inner over outer width of the MLP.
      pool: "token" classifies the class token, "avg" the mean of the patch tokens.
      class_token: whether there is one; `class_position`: whether it has a row in the position table (DeiT III: no).
      distilled: a second token and head; the logits are the mean of both heads, `method="heads"` gives the two.
      position: "learned", or "sincos2d", fixed, for which any multiple of the patch is a legal input size.
      rep_size: width of a dense layer and tanh before the head; 0 for none.
      norm_after_pool: normalize after pooling (`fc_norm`) instead of before (`norm`), as MAE fine-tunes.
      dropout, pos_drop, drop_path: rates of the blocks' dropout, of the tokens' at the start, and of the deepest block's branches.
      layer_scale: initial value, or None.
      activation: "gelu" (exact), "gelu_tanh" or "relu".
      initializer: "jax" or "deit", see INITIALIZERS.
      remat: recompute each block in the backward pass.
      dynamic_size: an image of another size has the position table brought to its grid at every call (bicubic), for several sizes at once; without,
        it is an error.
      scan: one traced block for all; parameters lie under `blocks` with a leading axis of length `depth` instead of under `blocks_<i>`
        (models/scanned.py converts; checkpoints are converted when they are read or written). Compiles faster, runs slower.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    pool: str = "token"
    class_token: bool = True
    class_position: bool = True
    distilled: bool = False
    position: str = "learned"
    rep_size: int = 0
    norm_after_pool: bool = False
    qkv_bias: bool = True
    dropout: float = 0.0
    pos_drop: float = 0.0
    drop_path: float = 0.0
    layer_scale: float | None = None
    activation: str = "gelu"
    initializer: str = "jax"
    remat: bool = False
    dynamic_size: bool = False
    scan: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return self.class_token + self.distilled

    @property
    def position_prefix(self) -> int:
        """Rows of the position table before the patches."""
        return self.prefix if self.class_position else 0

    def setup(self):
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ModelError(f"model.{field} is {getattr(self, field)!r}; {nearest(getattr(self, field), choices)}")
        if self.dim % self.heads:
            raise ModelError(f"model.heads={self.heads} does not divide model.dim={self.dim}")
        if self.pool == "token" and not self.class_token:
            raise ModelError("model.pool='token' needs model.class_token=True; without a class token set model.pool='avg'")
        if self.distilled and self.pool != "token":
            raise ModelError("model.distilled=True classifies its two tokens: model.pool has to be 'token'")
        patch_init, kernel_init, bias_init, token_init, head_init = INITIALIZERS[self.initializer]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.patch_embed = PatchEmbed(self.patch, self.dim, kernel_init=patch_init, **types)
        if self.class_token:
            self.cls_token = self.param("cls_token", token_init, (1, 1, self.dim), self.param_dtype)
        if self.distilled:
            self.dist_token = self.param("dist_token", nn.initializers.normal(0.02), (1, 1, self.dim), self.param_dtype)
        if self.position == "learned":
            rows, columns = patch_grid(self.image_size, self.patch)
            shape = (1, self.position_prefix + rows * columns, self.dim)
            self.pos_embed = self.param("pos_embed", nn.initializers.normal(0.02), shape, self.param_dtype)
        self.drop = nn.Dropout(self.pos_drop)
        self.blocks = make_blocks(
            Block, self.depth, remat=self.remat, scan=self.scan, heads=self.heads, mlp_hidden=int(self.dim * self.mlp_ratio), qkv_bias=self.qkv_bias,
            dropout=self.dropout, layer_scale=self.layer_scale, activation=ACTIVATIONS[self.activation], kernel_init=kernel_init,
            bias_init=bias_init, **types,
        )  # fmt: skip
        if self.norm_after_pool:
            self.fc_norm = LayerNorm(**types)
        else:
            self.norm = LayerNorm(**types)
        if self.rep_size:
            self.pre_logits = nn.Dense(self.rep_size, **types)
        if self.num_classes:
            head = {"kernel_init": head_init, "dtype": jnp.float32, "param_dtype": self.param_dtype}
            self.head = nn.Dense(self.num_classes, **head)
            if self.distilled:
                self.head_dist = nn.Dense(self.num_classes, **head)

    def _embed(self, image, train: bool):
        """Tokens that enter the first block, and the grid of the patches."""
        size, wanted = tuple(image.shape[1:3]), tuple(self.image_size)
        rows, columns = patch_grid(size, self.patch)
        x = self.patch_embed(image).reshape(image.shape[0], rows * columns, self.dim)
        if self.position == "sincos2d":
            table = jnp.asarray(sincos_2d(rows, columns, self.dim))[None]
        elif size == wanted:
            table = self.pos_embed
        elif self.dynamic_size:
            table = resize_position(self.pos_embed, patch_grid(wanted, self.patch), (rows, columns), self.position_prefix)
        else:
            raise ModelError(
                f"the position table is made for images of {wanted[0]}x{wanted[1]}, got {size[0]}x{size[1]}: create the model with image_size={size} "
                "or dynamic_size=True"
            )
        table = table.astype(self.dtype)
        tokens = ([self.cls_token] if self.class_token else []) + ([self.dist_token] if self.distilled else [])
        if table.shape[1] > rows * columns:
            extra = [(token.astype(self.dtype) + table[:, i : i + 1]) for i, token in enumerate(tokens)]
        else:
            extra = [token.astype(self.dtype) for token in tokens]
        x = x + table[:, table.shape[1] - rows * columns :]
        extra = [jnp.broadcast_to(token, (x.shape[0], 1, self.dim)) for token in extra]
        return self.drop(jnp.concatenate([*extra, x], axis=1), deterministic=not train), (rows, columns)

    def _encode(self, image, train: bool, keep: tuple[int, ...] = ()):
        """The last block's tokens, those of the blocks `keep`, and the grid of the patches."""
        x, grid = self._embed(image, train)
        x, kept = run_blocks(self.blocks, x, depth=self.depth, drop_path=self.drop_path, train=train, keep=keep)
        return x, kept, grid

    def _pooled(self, x):
        """(B, d) float32; of a distilled model (2, B, d)."""
        x = x if self.norm_after_pool else self.norm(x)
        if self.distilled:
            x = x[:, :2].swapaxes(0, 1)
        else:
            x = x[:, 0] if self.pool == "token" else x[:, self.prefix :].astype(jnp.float32).mean(1)
        x = self.fc_norm(x) if self.norm_after_pool else x
        x = jnp.tanh(self.pre_logits(x)) if self.rep_size else x
        return x.astype(jnp.float32)

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b k"]:
        x = self._pooled(self._encode(image, train)[0])
        if self.num_classes:
            x = jnp.stack([self.head(x[0]), self.head_dist(x[1])]) if self.distilled else self.head(x)
        return x.mean(0) if self.distilled else x

    def token_logits(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
        """Logits of the class token and of the distillation token apart, what DeiT's training compares with the label and with the teacher."""
        if not self.distilled or not self.num_classes:
            raise ModelError("token_logits needs model.distilled=True and a head")
        x = self._pooled(self._encode(image, train)[0])
        return self.head(x[0]), self.head_dist(x[1])

    def tokens(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b t d"]:
        """All tokens after the last block, the prefix first, normalized unless the model normalizes after pooling."""
        x, _, _ = self._encode(image, train)
        return x if self.norm_after_pool else self.norm(x)

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b h2 w2 d"], ...]:
        """Patch tokens as maps (B, H / patch, W / patch, dim) after each quarter of the depth (each block when there are fewer than four).

        They are the blocks' outputs, not normalized; all have one resolution.
        """
        _, kept, grid = self._encode(image, train, quarters(self.depth))
        return tuple(x[:, self.prefix :].reshape(x.shape[0], *grid, self.dim) for x in kept)


_SIZES = {
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "medium": {"dim": 512, "depth": 12, "heads": 8},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
    "huge": {"dim": 1280, "depth": 32, "heads": 16},
    "giant": {"dim": 1408, "depth": 40, "heads": 16, "mlp_ratio": 48 / 11},
    "gigantic": {"dim": 1664, "depth": 48, "heads": 16, "mlp_ratio": 64 / 13},
}
_GAP = {"class_token": False, "pool": "avg"}
_EVA = {"pool": "avg", "norm_after_pool": True}
_CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD}
_DEIT = {"initializer": "deit"}
_DEIT3 = {"initializer": "deit", "class_position": False, "layer_scale": 1e-6}


def _variant(size, patch, side, parameters, settings=(), imagenet=False, crop=None, **constants):
    constants = {"mean": IMAGENET_MEAN if imagenet else INCEPTION_MEAN, "std": IMAGENET_STD if imagenet else INCEPTION_STD, **constants}
    return Variant(
        VisionTransformer, {**_SIZES[size], "patch": patch, **dict(settings)}, (side, side), parameters=parameters,
        crop=crop or (0.9 if side == 224 else 1.0), **constants,
    )  # fmt: skip


VARIANTS = {
    "vit_tiny_patch16_224": _variant("tiny", 16, 224, 5_717_416),
    "vit_tiny_patch16_384": _variant("tiny", 16, 384, 5_790_376),
    "vit_small_patch32_224": _variant("small", 32, 224, 22_878_952),
    "vit_small_patch32_384": _variant("small", 32, 384, 22_915_432),
    "vit_small_patch16_224": _variant("small", 16, 224, 22_050_664),
    "vit_small_patch16_384": _variant("small", 16, 384, 22_196_584),
    "vit_small_patch14_224": _variant("small", 14, 224, 22_004_584),
    "vit_small_patch8_224": _variant("small", 8, 224, 22_055_272, imagenet=True),
    "vit_base_patch32_224": _variant("base", 32, 224, 88_224_232),
    "vit_base_patch32_384": _variant("base", 32, 384, 88_297_192),
    "vit_base_patch16_224": _variant("base", 16, 224, 86_567_656),
    "vit_base_patch16_384": _variant("base", 16, 384, 86_859_496),
    "vit_base_patch8_224": _variant("base", 8, 224, 86_576_872),
    "vit_large_patch32_224": _variant("large", 32, 224, 306_535_400),
    "vit_large_patch32_384": _variant("large", 32, 384, 306_632_680),
    "vit_large_patch16_224": _variant("large", 16, 224, 304_326_632),
    "vit_large_patch16_384": _variant("large", 16, 384, 304_715_752),
    "vit_large_patch14_224": _variant("large", 14, 224, 304_203_752),
    "vit_huge_patch14_224": _variant("huge", 14, 224, 632_045_800),
    "vit_giant_patch14_224": _variant("giant", 14, 224, 1_012_611_432),
    "vit_gigantic_patch14_224": _variant("gigantic", 14, 224, 1_844_440_680),
    "vit_medium_patch16_gap_240": _variant("medium", 16, 240, 38_845_416, {**_GAP, "qkv_bias": False, "layer_scale": 1e-6}, crop=0.95),
    "vit_medium_patch16_gap_256": _variant("medium", 16, 256, 38_861_288, {**_GAP, "qkv_bias": False, "layer_scale": 1e-6}, crop=0.95),
    "vit_medium_patch16_gap_384": _variant("medium", 16, 384, 39_025_128, {**_GAP, "qkv_bias": False, "layer_scale": 1e-6}, crop=0.95),
    "vit_base_patch16_gap_224": _variant("base", 16, 224, 86_566_120, {**_GAP, "heads": 16}),
    "vit_huge_patch14_gap_224": _variant("huge", 14, 224, 632_043_240, _GAP, imagenet=True),
    "vit_huge_patch16_gap_448": _variant("huge", 16, 448, 632_949_480, _GAP, imagenet=True),
    "vit_giant_patch16_gap_224": _variant("giant", 16, 224, 1_012_777_576, _GAP, imagenet=True),
    "deit_tiny_patch16_224": _variant("tiny", 16, 224, 5_717_416, _DEIT, imagenet=True),
    "deit_small_patch16_224": _variant("small", 16, 224, 22_050_664, _DEIT, imagenet=True),
    "deit_base_patch16_224": _variant("base", 16, 224, 86_567_656, _DEIT, imagenet=True),
    "deit_base_patch16_384": _variant("base", 16, 384, 86_859_496, _DEIT, imagenet=True),
    "deit_tiny_distilled_patch16_224": _variant("tiny", 16, 224, 5_910_800, {**_DEIT, "distilled": True}, imagenet=True),
    "deit_small_distilled_patch16_224": _variant("small", 16, 224, 22_436_432, {**_DEIT, "distilled": True}, imagenet=True),
    "deit_base_distilled_patch16_224": _variant("base", 16, 224, 87_338_192, {**_DEIT, "distilled": True}, imagenet=True),
    "deit_base_distilled_patch16_384": _variant("base", 16, 384, 87_630_032, {**_DEIT, "distilled": True}, imagenet=True),
    "deit3_small_patch16_224": _variant("small", 16, 224, 22_059_496, _DEIT3, imagenet=True),
    "deit3_small_patch16_384": _variant("small", 16, 384, 22_205_416, _DEIT3, imagenet=True),
    "deit3_medium_patch16_224": _variant("medium", 16, 224, 38_849_512, _DEIT3, imagenet=True),
    "deit3_base_patch16_224": _variant("base", 16, 224, 86_585_320, _DEIT3, imagenet=True),
    "deit3_base_patch16_384": _variant("base", 16, 384, 86_877_160, _DEIT3, imagenet=True),
    "deit3_large_patch16_224": _variant("large", 16, 224, 304_374_760, _DEIT3, imagenet=True),
    "deit3_large_patch16_384": _variant("large", 16, 384, 304_763_880, _DEIT3, imagenet=True),
    "eva_large_patch14_196": _variant("large", 14, 196, 304_142_312, _EVA, **_CLIP),
    "eva_large_patch14_336": _variant("large", 14, 336, 304_531_432, _EVA, **_CLIP),
    "deit3_huge_patch14_224": _variant("huge", 14, 224, 632_126_440, _DEIT3, imagenet=True),
}
