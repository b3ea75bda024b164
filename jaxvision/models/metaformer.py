"""MetaFormer: PoolFormer and its hybrids (Yu et al. 2022, "MetaFormer Is Actually What You Need for Vision", arXiv 2111.11418), and the baselines
that followed: IdentityFormer, RandFormer, PoolFormerV2, ConvFormer, CAFormer (Yu et al. 2023, arXiv 2210.13452).

A transformer block is a residual token mixer and a residual perceptron; which mixer matters less than the block itself, and even 3x3 average
pooling or a frozen random matrix serves. Here the mixer of each stage is a name in `token_mixers.MIXERS`.

Where implementations differ: the official PoolFormer normalizes the last map and then averages it, timm averages first. The class default is the
official order (`head_norm="map"`), the names that timm has (`poolformer_*`) follow timm (`"pooled"`); class order hardly changes, logits do. The norm
inside the classifier of ConvFormer and CAFormer has timm's epsilon, 1e-6; the official code's is `head_epsilon=1e-5`. RandFormer's matrices are drawn
by numpy from the number of the block, so they are no parameters and exist for every image size, and the released RandFormer weights do not fit.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.metaformer_checkpoint import CHECKPOINT as CHECKPOINT
from jaxvision.models.registry import Variant
from jaxvision.models.token_mixers import MIXERS, activate, fits, init
from jaxvision.nn.classifier import Classifier, global_mean, torch_bias, torch_kernel
from jaxvision.nn.conv import Conv
from jaxvision.nn.group_norm import GroupNorm
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pointwise import Pointwise
from jaxvision.nn.position import resize_grid
from jaxvision.nn.regularize import DropPath, LayerScale, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap


def normalize(kind: str, bias: bool, epsilon: float, dtypes: Mapping[str, Any], name: str) -> nn.Module:
    """"group": one group, the statistics of a whole example; "layer": those of each pixel."""
    if kind == "group":
        return GroupNorm(1, epsilon, bias, **dtypes, name=name)
    if kind == "layer":
        return LayerNorm(epsilon, bias, **dtypes, name=name)
    raise ModelError(f"model.norm {kind!r} is unknown; there are: group, layer")


class MetaFormerMlp(nn.Module):
    """Four times as wide inside. `as_conv`: the kernels have a 1x1 convolution's shape."""

    activation: str
    use_bias: bool
    as_conv: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        settings = {"as_conv": self.as_conv, "use_bias": self.use_bias, "kernel_init": init, **dtypes}
        y = activate(Pointwise(4 * x.shape[-1], **settings, name="fc1")(x), self.activation, dtypes, "act")
        return Pointwise(x.shape[-1], **settings, name="fc2")(y)


class MetaFormerBlock(nn.Module):
    """res_scale1(x) + layer_scale1(mixer(norm1(x))), then the same with a perceptron. Fields as in `MetaFormer`. Taps `out`."""

    mixer: str
    number: int
    size: tuple[int, int]
    drop_path: float
    res_scale: float | None
    layer_scale: float | None
    norm: str
    norm_bias: bool
    epsilon: float
    activation: str
    mlp_bias: bool
    pool_size: int
    head_dim: int
    attention_bias: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        norm = functools.partial(normalize, self.norm, self.norm_bias, self.epsilon, self.dtypes)
        x = self._add(x, MIXERS[self.mixer](self, norm("norm1")(x), train), 1, train)
        mlp = MetaFormerMlp(self.activation, self.mlp_bias, self.mixer != "attention", **self.dtypes, name="mlp")
        out = self._add(x, mlp(norm("norm2")(x)), 2, train)
        tap(self, "out", lambda: out)
        return out

    def _add(self, x, y, half: int, train: bool):
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, **self.dtypes, name=f"layer_scale{half}")(y)
        if self.res_scale is not None:
            x = LayerScale(self.res_scale, **self.dtypes, name=f"res_scale{half}")(x)
        return residual(x, DropPath(self.drop_path)(y, train=train))


class Patches(nn.Module):
    """Overlapping patches: a convolution (`conv`), and where `norm` a LayerNorm without bias ("before" or "after" it)."""

    dim: int
    shape: tuple[int, int, int]
    norm: str | None
    torch_init: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kernel, stride, padding = self.shape
        if min(x.shape[1:3]) + 2 * padding < kernel:
            raise ModelError(f"a map of {x.shape[1]}x{x.shape[2]} is too small for patches of {kernel}x{kernel}: give larger images")
        if self.norm == "before":
            x = LayerNorm(1e-6, use_bias=False, **dtypes, name="norm")(x)
        fan_in = kernel * kernel * x.shape[-1]
        inits = (torch_kernel, torch_bias(fan_in)) if self.torch_init else (init, nn.initializers.zeros)
        x = Conv(self.dim, kernel, stride, padding, kernel_init=inits[0], bias_init=inits[1], **dtypes, name="conv")(x)
        return LayerNorm(1e-6, use_bias=False, **dtypes, name="norm")(x) if self.norm == "after" else x


class MetaFormerStage(nn.Module):
    """Patches (not in the first stage), a learned position map where `position`, blocks."""

    patches: functools.partial | None
    size: tuple[int, int]
    position: bool
    blocks: tuple[functools.partial, ...]
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        if self.patches is not None:
            x = self.patches(name="downsample")(x)
        if self.position:
            fits(x, self.size, "its position maps")
            x = x + self.param("pos_embed", nn.initializers.zeros, (1, *self.size, x.shape[-1]), self.param_dtype).astype(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(name=f"blocks_{i}")(x, train)
        return x


class MlpHead(nn.Module):
    """`fc1`, squared ReLU, `norm`, dropout, `fc2`; in float32."""

    num_classes: int
    epsilon: float
    dropout: float
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"], train: bool) -> Float[Array, "b classes"]:
        x = jnp.square(nn.relu(nn.Dense(4 * x.shape[-1], kernel_init=init, param_dtype=self.param_dtype, name="fc1")(x)))
        x = nn.Dropout(self.dropout)(LayerNorm(self.epsilon, param_dtype=self.param_dtype, name="norm")(x), deterministic=not train)
        return Classifier(self.num_classes, init, nn.initializers.zeros, self.param_dtype, name="fc2")(x)


class MetaFormerHead(nn.Module):
    """`norm` on the map and then the mean, or (`map_norm` None) the mean and then LayerNorm; `fc`. All in float32."""

    num_classes: int
    map_norm: functools.partial | None
    mlp: bool
    epsilon: float
    dropout: float
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b classes"]:
        if self.map_norm is not None:
            x = global_mean(self.map_norm("norm")(x))
        else:
            x = LayerNorm(1e-6, param_dtype=self.param_dtype, name="norm")(global_mean(x))
        if not self.num_classes:
            return x
        if self.mlp:
            return MlpHead(self.num_classes, self.epsilon, self.dropout, self.param_dtype, name="fc")(x, train)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Classifier(self.num_classes, init, nn.initializers.zeros, self.param_dtype, name="fc")(x)


class MetaFormer(StagedClassifier):
    """Logits (B, num_classes) float32; with num_classes=0 the pooled, normalized features (B, dims[-1]).

    `method="stages"`: one map a stage, finest first (strides 4, 8, 16, 32 with the published patches), without a norm.

    Attributes:
      depths, dims: blocks and channels a stage.
      mixers: of each stage, names in `MIXERS`.
      positions: which stages start by adding a learned map; it and "spatial_fc" tie the model to its `image_size`.
      stem, down: (kernel, stride, padding) of the first patches and of those between stages.
      norm: "group" or "layer"; norm_bias, epsilon: of the blocks' norms.
      activation: "star_relu" or one of `nn.mlp.ACTIVATIONS`.
      layer_scale: initial factor on every residual branch, None for none.
      res_scale: initial factor on the residual itself, a stage; None for none.
      patch_norm: LayerNorm without bias after the stem and before the other patch convolutions.
      torch_init: patch convolutions start as PyTorch's do (PoolFormer), instead of from a normal of deviation 0.02.
      head_norm: "map" (normalize, then average) or "pooled" (average, then LayerNorm).
      mlp_head: one hidden layer in the classifier; head_epsilon: of its norm.
      pool_size, head_dim, attention_bias (on the output projection): of the mixers that have them.
      drop_path: rate of the last block; the others' rise linearly from 0.
      dropout: before the classifier's last layer.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    dims: tuple[int, ...] = (64, 128, 320, 512)
    mixers: tuple[str, ...] = ("pool", "pool", "pool", "pool")
    positions: tuple[bool, ...] | None = None
    stem: tuple[int, int, int] = (7, 4, 2)
    down: tuple[int, int, int] = (3, 2, 1)
    norm: str = "group"
    norm_bias: bool = True
    epsilon: float = 1e-5
    activation: str = "gelu"
    mlp_bias: bool = True
    layer_scale: float | None = 1e-5
    res_scale: tuple[float | None, ...] | None = None
    patch_norm: bool = False
    torch_init: bool = True
    head_norm: str = "map"
    mlp_head: bool = False
    head_epsilon: float = 1e-6
    pool_size: int = 3
    head_dim: int = 32
    attention_bias: bool = True
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def map_of(self, stage: int) -> tuple[int, int]:
        """(rows, columns) of a stage's map for an image of `image_size`."""
        size = self.image_size
        for kernel, stride, padding in [self.stem] + [self.down] * stage:
            size = tuple((side + 2 * padding - kernel) // stride + 1 for side in size)
        return size

    def _check(self) -> None:
        stages = len(self.depths)
        for name in ("dims", "mixers", "positions", "res_scale"):
            values = getattr(self, name)
            if values is not None and len(values) != stages:
                raise ModelError(f"model.{name} has {len(values)} values, model.depths has {stages}: give one a stage")
        for mixer in self.mixers:
            if mixer not in MIXERS:
                raise ModelError(f"model.mixers has {mixer!r}, which is unknown; {nearest(mixer, MIXERS)}")
        if self.head_norm not in ("map", "pooled"):
            raise ModelError(f"model.head_norm {self.head_norm!r} is unknown; there are: map, pooled")

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        self._check()
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        after, before = ("after", "before") if self.patch_norm else (None, None)
        x = Patches(self.dims[0], self.stem, after, self.torch_init, **dtypes, name="stem")(image)
        block = functools.partial(
            nn.remat(MetaFormerBlock, static_argnums=(2,)) if self.remat else MetaFormerBlock,
            layer_scale=self.layer_scale,
            norm=self.norm,
            norm_bias=self.norm_bias,
            epsilon=self.epsilon,
            activation=self.activation,
            mlp_bias=self.mlp_bias,
            pool_size=self.pool_size,
            head_dim=self.head_dim,
            attention_bias=self.attention_bias,
            **dtypes,
        )
        rates, number, maps = drop_path_rates(self.drop_path, sum(self.depths)), 0, []
        for i, (depth, dim, mixer) in enumerate(zip(self.depths, self.dims, self.mixers)):
            shared = {"mixer": mixer, "size": self.map_of(i), "res_scale": self.res_scale[i] if self.res_scale else None}
            blocks = tuple(functools.partial(block, number=n, drop_path=rates[n], **shared) for n in range(number, number + depth))
            number += depth
            patches = functools.partial(Patches, dim, self.down, before, self.torch_init, **dtypes) if i else None
            position = bool(self.positions and self.positions[i])
            x = MetaFormerStage(patches, self.map_of(i), position, blocks, self.param_dtype, name=f"stages_{i}")(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        return MetaFormerHead(
            self.num_classes,
            functools.partial(normalize, self.norm, True, self.epsilon, {"param_dtype": self.param_dtype}) if self.head_norm == "map" else None,
            self.mlp_head,
            self.head_epsilon,
            self.dropout,
            self.param_dtype,
            name="head",
        )(x, train)


def _resize_map(value: Float[Array, "1 h w c"], old: MetaFormer, new: MetaFormer, *, stage: int) -> Float[Array, "1 h2 w2 c"]:
    """No published code resizes these maps; bilinear, as position tables are elsewhere."""
    return resize_grid(value[0], new.map_of(stage), "bilinear_aliased")[None]


def _refuse(value: Any, old: MetaFormer, new: MetaFormer, *, stage: int) -> Any:
    (h, w), (h2, w2) = old.map_of(stage), new.map_of(stage)
    if (h, w) != (h2, w2):
        raise ModelError(f"the spatial layers of stage {stage} belong to maps of {h}x{w} and cannot be resized to {h2}x{w2}: keep the image size")
    return value


SIZE_DEPENDENT = (
    *((rf"stages_{stage}/pos_embed", functools.partial(_resize_map, stage=stage)) for stage in range(4)),
    *((rf"stages_{stage}/blocks_\d+/token_mixer/fc/kernel", functools.partial(_refuse, stage=stage)) for stage in range(4)),
)
_SMALL, _MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)
_POOL, _IDENTITY = ("pool",) * 4, ("identity",) * 4
# What the follow-up paper changed: no biases, StarReLU, LayerNorm around patch convolutions, scales on the residual of the last two stages.
_BASELINE = {
    "norm_bias": False,
    "epsilon": 1e-6,
    "activation": "star_relu",
    "mlp_bias": False,
    "layer_scale": None,
    "res_scale": (None, None, 1.0, 1.0),
    "patch_norm": True,
    "torch_init": False,
    "head_norm": "pooled",
    "attention_bias": False,
}


def _variant(depths: tuple[int, ...], dims: tuple[int, ...], parameters: int, settings: Mapping[str, Any], crop: float) -> Variant:
    return Variant(MetaFormer, {"depths": depths, "dims": dims, **settings}, parameters=parameters, crop=crop)


def _poolformers() -> dict[str, Variant]:
    """name -> depths, dims, parameters of the first form and of the baselines without parameters in their mixers."""
    sizes = {
        "s12": ((2, 2, 6, 2), _SMALL, 11_915_176, 11_891_712),
        "s24": ((4, 4, 12, 4), _SMALL, 21_388_968, 21_341_464),
        "s36": ((6, 6, 18, 6), _SMALL, 30_862_760, 30_791_216),
        "m36": ((6, 6, 18, 6), _MEDIUM, 56_172_520, 56_077_168),
        "m48": ((8, 8, 24, 8), _MEDIUM, 73_473_448, 73_346_056),
    }
    table = {}
    for size, (depths, dims, first, baseline) in sizes.items():
        layer_scale = 1e-5 if size in ("s12", "s24") else 1e-6
        settings = {"mixers": _POOL, "layer_scale": layer_scale, "head_norm": "pooled"}
        table[f"poolformer_{size}"] = _variant(depths, dims, first, settings, 0.9 if size[0] == "s" else 0.95)
        for name, mixers in {"poolformerv2": _POOL, "identityformer": _IDENTITY, "randformer": (*_IDENTITY[:2], "random", "random")}.items():
            table[f"{name}_{size}"] = _variant(depths, dims, baseline, {**_BASELINE, "mixers": mixers}, 1.0)
    return table


def _conv_and_caformers() -> dict[str, Variant]:
    sizes = {
        "s18": ((3, 3, 9, 3), _SMALL, 26_774_448, 26_341_656),
        "s36": ((3, 12, 18, 3), _SMALL, 40_012_152, 39_297_102),
        "m36": ((3, 12, 18, 3), (96, 192, 384, 576), 57_051_640, 56_204_878),
        "b36": ((3, 12, 18, 3), (128, 256, 512, 768), 99_882_616, 98_753_614),
    }
    settings = {**_BASELINE, "norm": "layer", "mlp_head": True}
    table = {}
    for size, (depths, dims, conv, mixed) in sizes.items():
        table[f"convformer_{size}"] = _variant(depths, dims, conv, {**settings, "mixers": ("sep_conv",) * 4}, 1.0)
        mixers = ("sep_conv", "sep_conv", "attention", "attention")
        table[f"caformer_{size}"] = _variant(depths, dims, mixed, {**settings, "mixers": mixers}, 1.0)
    return table


def _hybrid(last: tuple[str, str], parameters: int, crop: float, **settings) -> Variant:
    return _variant((2, 2, 6, 2), _SMALL, parameters, {"mixers": ("pool", "pool", *last), **settings}, crop)


# Only the official code has these; their names are its names.
_HYBRIDS = {
    "metaformer_id_s12": _variant((2, 2, 6, 2), _SMALL, 11_915_176, {"mixers": _IDENTITY}, 0.9),
    "metaformer_pppa_s12_224": _hybrid(("pool", "attention"), 14_038_440, 0.95, norm="layer", positions=(False, False, False, True)),
    "metaformer_ppaa_s12_224": _hybrid(("attention", "attention"), 16_535_592, 0.95, norm="layer", positions=(False, False, True, False)),
    "metaformer_pppf_s12_224": _hybrid(("pool", "spatial_fc"), 11_919_978, 0.9),
    "metaformer_ppff_s12_224": _hybrid(("spatial_fc", "spatial_fc"), 12_150_474, 0.95),
}
VARIANTS = {**_poolformers(), **_conv_and_caformers(), **_HYBRIDS}
