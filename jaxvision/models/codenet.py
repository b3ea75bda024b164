"""CoDeNet: detectors by centres (CenterNet, Zhou et al. 2019, arXiv 1904.07850) on ShuffleNet V2, with deformable convolutions that an FPGA can hold.

`AblationDetector` is the network of Huang et al. 2019 (arXiv 2002.08357, github.com/DequanWang/CoDeNet), whose decoder and heads take one of the
convolutions of nn/deform.py; `CoDeNet` that of Dong et al. 2021 (arXiv 2006.08357, github.com/Zhen-Dong/CoDeNet), float or quantized. Both return
maps of stride 4 from images whose sides are multiples of 32:

    {"heat": (B, h, w, classes) logits of centres, "size": (B, h, w, 2) width and height in cells, "offset": (B, h, w, 2) of the centre, x and y}

Images are RGB here; the public weights want BGR, and their first kernels are turned around when they are loaded and saved. The second network's
public weights saw means and deviations of RGB on BGR images: --config.data.mean=(0.406,0.456,0.485) --config.data.std=(0.225,0.224,0.229) say that.
"""

import math
import re
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.block_resize import repeat_pixels
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule, from_torch, to_torch
from jaxvision.models.shufflenet_v2 import ShuffleUnit
from jaxvision.nn.deform import KINDS, RadiusConv, VariantConv
from jaxvision.nn.pool import max_pool
from jaxvision.nn.quantize import Layers, Quantization
from jaxvision.nn.taps import tap

PRIOR = -math.log(99)  # a centre's logit at the beginning: probability 0.01
Maps = dict[str, Float[Array, "b h w c"]]


def _check(image, model: nn.Module) -> None:
    if any(side % 32 or not side for side in image.shape[1:3]):
        given = "x".join(map(str, image.shape[1:3]))
        raise ModelError(f"{type(model).__name__} takes images whose sides are multiples of 32, got {given}; set image_size to such")


class Encoder(nn.Module):
    """ShuffleNet V2 in its authors' later arrangement, up to the last convolution; returns maps of strides 4, 8, 16 and 32 and that convolution's."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    layers: Layers

    @nn.compact
    def __call__(self, image, train: bool) -> tuple[Array, ...]:
        x = nn.relu(self.layers.conv_norm(image, self.channels[0], 3, 2, names=("first_conv_0", "first_conv_1"), train=train))
        x = max_pool(x, 3, 2, 1)
        maps, number = [x], 0
        for features, depth in zip(self.channels[1:], self.depths):
            for i in range(depth):
                unit = ShuffleUnit(features, 1 if i else 2, self.layers, ("branch_proj", "branch_main"), early=True, name=f"features_{number}")
                x, number = unit(x, train), number + 1
            maps.append(x)
        return (*maps, nn.relu(self.layers.conv_norm(x, self.channels[-1], names=("conv_last_0", "conv_last_1"), train=train)))


class Heads(nn.Module):
    """Three branches: a variant convolution, batch norm, ReLU, and 1x1."""

    classes: int
    dim: int
    kind: str
    layers: Layers

    @nn.compact
    def __call__(self, x, train: bool) -> Maps:
        made = {}
        small = {"kernel_init": nn.initializers.normal(0.01)}
        prior = {"bias_init": nn.initializers.constant(PRIOR)}
        for key, name, width, inits in (("heat", "cls", self.classes, prior), ("size", "wh", 2, small), ("offset", "reg", 2, small)):
            y = VariantConv(self.dim, self.kind, self.layers, name=f"{name}_feat_0")(x, train)
            y = nn.relu(self.layers.norm(y, f"{name}_feat_1", train))
            made[key] = self.layers.conv(y, width, name=f"{name}_head", use_bias=True, **inits).astype(jnp.float32)
        return made


class AblationDetector(nn.Module):
    """The detector of 2019. Fields as of `CoDeNet`, and `kind`, one of nn.deform.KINDS."""

    num_classes: int = 80
    image_size: tuple[int, ...] = (512, 512)
    kind: str = "square_depthwise"
    channels: tuple[int, ...] = (24, 116, 232, 464, 1024)
    depths: tuple[int, ...] = (4, 8, 4)
    decoder: tuple[int, ...] = (512, 256, 128)
    norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    stride = 4  # of the maps

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Maps:
        return self.forward(image, train, True)

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Array, ...]:
        """Maps of strides 4, 8, 16 and 32 of the encoder."""
        return self.forward(image, train, False)

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        _check(image, self)
        if self.kind not in KINDS:
            raise ModelError(f"model.kind {self.kind!r} is no convolution of the ablation; {nearest(self.kind, KINDS)}")
        layers = Layers(None, self.norm_groups, self.dtype, self.param_dtype)
        *maps, x = Encoder(self.channels, self.depths, layers, name="encoder")(image, train)
        if not head:
            return tuple(maps)
        for i, dim in enumerate(self.decoder):
            x = VariantConv(dim, self.kind, layers, name=f"decoder_{4 * i}")(x, train)
            x = repeat_pixels(nn.relu(layers.norm(x, f"decoder_{4 * i + 1}", train)), 2)
        return Heads(self.num_classes, self.decoder[-1], self.kind, layers, name="head")(x, train)


class CoDeNet(nn.Module):
    """The detector of 2021.

    Attributes:
      channels: after the stem, of the three stages, and of the convolution before the decoder.
      depths: units of each stage. decoder: channels of its steps, each twice as fine. head: inner channels of the heads.
      pool: the stem shrinks by a stride of 2 and a max-pool instead of by a stride of 4.
      weight_bits, activation_bits, first_bits, percentile: of quantization, see nn.quantize.Quantization; weight_bits 0: none.
    """

    num_classes: int = 80
    image_size: tuple[int, ...] = (512, 512)
    channels: tuple[int, ...] = (24, 116, 232, 464, 1024)
    depths: tuple[int, ...] = (4, 8, 4)
    decoder: tuple[int, ...] = (256, 128, 64)
    head: int = 64
    pool: bool = False
    weight_bits: int = 0
    activation_bits: int = 8
    first_bits: int = 8
    percentile: bool = False
    norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    stride = 4  # of the maps

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Maps:
        return self.forward(image, train, True)

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Array, ...]:
        """Maps of strides 4, 8, 16 and 32."""
        return self.forward(image, train, False)

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        _check(image, self)
        quant = Quantization(self.weight_bits, self.activation_bits, self.first_bits, self.percentile) if self.weight_bits else None
        layers = Layers(quant, self.norm_groups, self.dtype, self.param_dtype)
        bits = self.first_bits if quant else None
        x = layers.conv_norm(image, self.channels[0], 3, 2 if self.pool else 4, names=("layer0_0", "layer0_1"), train=train, bits=bits)
        x = layers.activation("layer0_range")(nn.relu(x), train)
        maps = [max_pool(x, 3, 2, 1) if self.pool else x]
        for stage, (features, depth) in enumerate(zip(self.channels[1:], self.depths), 1):
            x, shared = maps[-1], layers.activation(f"layer{stage}_range")
            for i in range(depth):
                x = ShuffleUnit(features, 1 if i else 2, layers, ("b1", "b2"), name=f"layer{stage}_{i}")(x, train, shared)
            maps.append(x)
        if not head:
            return tuple(maps)
        x = layers.conv_norm(x, self.channels[-1], names=("layer4_0", "layer4_1"), train=train)
        x = layers.activation("layer4_range")(nn.relu(x), train)
        for i, dim in enumerate(self.decoder):
            if x.shape[-1] == dim:
                raise ModelError(f"model.decoder={self.decoder}: a step from {dim} to {dim} channels has no 1x1 convolution; take another number")
            y, radius = RadiusConv(dim, layers, name=f"deconv_layers_{4 * i}")(x, train)
            tap(self, f"radius{i}", lambda radius=radius: radius)
            x = layers.conv_norm(y, dim, names=(f"channel_{4 * i}", f"deconv_layers_{4 * i + 1}"), train=train, kernel_init=kaiming)
            x = repeat_pixels(layers.activation(f"deconv{i}_range")(nn.relu(x), train), 2)
        branches = (("heat", "hm", self.num_classes), ("size", "wh", 2), ("offset", "reg", 2))
        return {key: self._head(layers, x, name, width, train) for key, name, width in branches}

    def _head(self, layers: Layers, x, name: str, width: int, train: bool):
        inits = {} if name == "hm" else {"kernel_init": kaiming}
        y = layers.conv_norm(x, self.head, names=(f"{name}_0", f"{name}_1"), train=train, **inits)
        y = layers.activation(f"{name}_first_range")(nn.relu(y), train)
        y = layers.conv_norm(y, self.head, 3, groups=self.head, names=(f"{name}_3", f"{name}_4"), train=train, **inits)
        y = layers.activation(f"{name}_second_range")(nn.relu(y), train)
        bias = nn.initializers.constant(-2.19 if name == "hm" else 0.0)
        return layers.conv(y, width, name=f"{name}_6", use_bias=True, bias_init=bias, **inits).astype(jnp.float32)


kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
DOUBLE = {"channels": (24, 244, 488, 976, 2153)}
# Parameters with the 20 classes of PASCAL VOC; of the ablation's networks decoder and heads (6,641,176 … 755,742) beside an encoder of 1,254,760.
VARIANTS = {
    **{
        f"codenet_{kind}": Variant(
            AblationDetector, {"kind": kind}, (512, 512), crop=1.0, interpolation="bilinear", parameters=parameters, classes=20
        )
        for kind, parameters in (
            ("conv3x3", 7_895_936),
            ("depthwise", 2_011_776),
            ("deform", 7_935_212),
            ("deform_bound", 8_248_556),
            ("deform_square", 7_915_526),
            ("deform_depthwise", 2_032_364),
            ("square_depthwise", 2_010_502),
        )
    },
    **{
        f"codenet_{name}": Variant(CoDeNet, settings, size, crop=1.0, interpolation="bilinear", parameters=parameters, classes=20)
        for name, settings, size, parameters in (
            ("a", {}, (256, 256), 1_588_031),
            ("b", {"pool": True}, (256, 256), 1_588_031),
            ("c", {}, (512, 512), 1_588_031),
            ("d", DOUBLE, (512, 512), 6_082_427),
            ("e", {**DOUBLE, "pool": True}, (512, 512), 6_082_427),
        )
    },
}


def _bgr_load(arrays, shape):
    return from_torch(arrays[0])[..., ::-1, :]


def _bgr_save(array):
    return (to_torch(array[..., ::-1, :]),)


# Units of each stage, all of which the public file lets repeat the stage's range.
UNITS = {1: 4, 2: 8, 3: 4}


def _fanned(names, count):
    """The one value that a file repeats under several names."""
    return Rule(names[0], names[1], lambda arrays, shape: arrays[0], lambda array: (array,) * count)


_FLOAT = (
    Rule(r"(encoder/first_conv_0|layer0_0)/kernel", lambda match: match[1].replace("/", ".").replace("_0", ".0") + ".weight", _bgr_load, _bgr_save),
    Rule(r"channel_(\d+)/kernel", r"deconv_layers.\1.conv_channel.weight"),
    Rule(r"deconv_layers_(\d+)/kernel", r"deconv_layers.\1.conv.weight"),
    Rule(r".*_range/\w+", None),
)
_PAIRS = {"b2_0": "quant_convbn1", "b2_3": "quant_convbn2", "b2_5": "quant_convbn3", "b1_0": "quant_convbn4", "b1_2": "quant_convbn5"}
_PAIRS |= {"_0": "quant_convbn1", "_3": "quant_convbn2"}
_NORMS = {"b2_1": "b2_0", "b2_4": "b2_3", "b2_6": "b2_5", "b1_1": "b1_0", "b1_3": "b1_2", "_1": "_0", "_4": "_3"}
_RANGES = {"b2_range": "quant_act1", "b2_depthwise_range": "quant_act2", "b1_depthwise_range": "quant_act4"}


def _next_index(number: str) -> int:
    """Of a decoder step's index in the float file, that in the quantized one, which has three entries a step for four."""
    return int(number) // 4 * 3


_QUANTIZED = (
    Rule(r"layer0_0/kernel", "layer0.0.conv.weight", _bgr_load, _bgr_save),
    Rule(r"layer4_0/kernel", "layer4.0.conv.weight"),
    Rule(r"layer([04])_1/(\w+)", r"layer\1.0.bn.\2"),
    Rule(r"layer([04])_range/(\w+)", r"layer\1.1.1.\2"),
    *(
        _fanned((rf"layer{stage}_range/(\w+)", [rf"layer{stage}.{i}.quant_act.\1" for i in range(count)]), count)
        for stage, count in UNITS.items()
    ),
    Rule(r"layer(\d)_(\d)/(b\d_\d)/kernel", lambda match: f"layer{match[1]}.{match[2]}.{_PAIRS[match[3]]}.conv.weight"),
    Rule(r"layer(\d)_(\d)/(b\d_\d)/(\w+)", lambda match: f"layer{match[1]}.{match[2]}.{_PAIRS[_NORMS[match[3]]]}.bn.{match[4]}"),
    Rule(r"layer(\d)_(\d)/(\w+_range)/(\w+)", lambda match: f"layer{match[1]}.{match[2]}.{_RANGES[match[3]]}.{match[4]}"),
    Rule(r"deconv_layers_(\d+)/conv_scale/(\w+)", lambda match: f"deconv_layers.{_next_index(match[1])}.quant_conv_scale.{match[2]}"),
    Rule(r"deconv_layers_(\d+)/scale_range/(\w+)", lambda match: f"deconv_layers.{_next_index(match[1])}.quant_act.1.{match[2]}"),
    Rule(r"deconv_layers_(\d+)/deform_range/(\w+)", lambda match: f"deconv_layers.{_next_index(match[1])}.quant_identity_deform.{match[2]}"),
    Rule(r"deconv_layers_(\d+)/kernel", lambda match: f"deconv_layers.{_next_index(match[1])}.quant_deform_conv.kernel"),
    Rule(r"channel_(\d+)/kernel", lambda match: f"deconv_layers.{_next_index(match[1])}.quant_conv_channel_bn.conv.weight"),
    Rule(r"deconv_layers_(\d+)/(\w+)", lambda match: f"deconv_layers.{_next_index(match[1])}.quant_conv_channel_bn.bn.{match[2]}"),
    Rule(r"deconv(\d)_range/(\w+)", lambda match: f"deconv_layers.{int(match[1]) * 3 + 1}.1.{match[2]}"),
    Rule(r"(hm|wh|reg)(_[03])/kernel", lambda match: f"{match[1]}.{_PAIRS[match[2]]}.conv.weight"),
    Rule(r"(hm|wh|reg)(_[14])/(\w+)", lambda match: f"{match[1]}.{_PAIRS[_NORMS[match[2]]]}.bn.{match[3]}"),
    Rule(r"(hm|wh|reg)_6/(\w+)", r"\1.quant_conv.\2"),
    Rule(r"(hm|wh|reg)_first_range/(\w+)", r"\1.quant_act1.1.\2"),
    Rule(r"(hm|wh|reg)_second_range/(\w+)", r"\1.quant_act3.1.\2"),
)
_IMAGENET = (
    Rule(r"encoder/first_conv_0/kernel", "first_conv.0.weight", _bgr_load, _bgr_save),
    Rule(r"encoder/(.*)", lambda match: re.sub(r"_(\d+)(?=/)", r".\1", match[1]).replace("/", ".")),
    Rule(r"(decoder_|head/).*", None),
)
_TORCHVISION = (
    Rule(r"layer0_(\d)/(\w+)", r"conv1.\1.\2"),
    Rule(r"layer4_(\d)/(\w+)", r"conv5.\1.\2"),
    Rule(r"layer(\d)_(\d)/b(\d)_(\d)/(\w+)", lambda match: f"stage{int(match[1]) + 1}.{match[2]}.branch{match[3]}.{match[4]}.{match[5]}"),
    Rule(r"(deconv_layers|channel|hm|wh|reg)_.*|.*_range/\w+", None),
)
# "quantized": what quant_main.py of the second repository writes. "imagenet": classifiers of ShuffleNet V2's authors, for the first network.
# "torchvision": its classifiers, for the second.
CHECKPOINT = {"torch": _FLOAT, "quantized": _QUANTIZED, "imagenet": _IMAGENET, "torchvision": _TORCHVISION}
_AROUND = r"(.*\.)?offset_template|pixel_mean|pixel_std|classifier\..*|fc\..*"


def adapt_checkpoint(arrays, layout: str, model):
    """Without what detectron2 and DataParallel write around a network's own names, and without the head of a classifier."""
    arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return {name: array for name, array in arrays.items() if not re.fullmatch(_AROUND, name)}
