"""The blocks of mobile networks: depthwise separable convolution (MobileNet, arXiv 1704.04861) and inverted residual (MobileNetV2, 1801.04381),
the latter with squeeze-and-excitation as in EfficientNet (1905.11946).

Both take `conv` and `norm` as functions that make a layer, so that padding, dtypes and the constants of the normalization are said once a network.
"""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.nn.regularize import DropPath
from jaxvision.nn.residual import residual
from jaxvision.nn.resizing import resizable
from jaxvision.nn.squeeze_excite import SqueezeExcite

# He's fan-out rule counts the outputs that one input reaches, which in a depthwise convolution is the window alone.
depthwise_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class DepthwiseSeparable(nn.Module):
    """Depthwise kxk, norm, activation, (squeeze-and-excitation,) 1x1, norm; plus the input where shapes allow and `skip`.

    Attributes:
      features: of the output. reduced: channels inside the squeeze-and-excitation, 0 for none.
      last_activation: also after the second norm (MobileNetV1).
    """

    features: int
    kernel_size: int
    strides: int
    conv: Callable
    norm: Callable
    activation: Callable
    reduced: int = 0
    skip: bool = True
    last_activation: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        c = x.shape[-1]
        y = self.conv(c, self.kernel_size, self.strides, groups=c, kernel_init=depthwise_init, name="conv_dw")(x)
        y = self.activation(self.norm(name="bn1")(y, train=train))
        y = _squeeze_excite(self, y)
        y = self.norm(name="bn2")(self.conv(self.features, 1, name="conv_pw")(y), train=train)
        if self.last_activation:
            y = self.activation(y)
        if resizable(self, "skip", self.skip and y.shape == x.shape):
            return residual(x, DropPath(self.drop_path)(y, train=train))
        return y


class InvertedResidual(nn.Module):
    """1x1 to `expanded`, norm, activation, depthwise kxk, norm, activation, (squeeze-and-excitation,) 1x1, norm; plus the input if it fits."""

    features: int
    expanded: int
    kernel_size: int
    strides: int
    conv: Callable
    norm: Callable
    activation: Callable
    reduced: int = 0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = self.activation(self.norm(name="bn1")(self.conv(self.expanded, 1, name="conv_pw")(x), train=train))
        y = self.conv(y.shape[-1], self.kernel_size, self.strides, groups=y.shape[-1], kernel_init=depthwise_init, name="conv_dw")(y)
        y = self.activation(self.norm(name="bn2")(y, train=train))
        y = _squeeze_excite(self, y)
        y = self.norm(name="bn3")(self.conv(self.features, 1, name="conv_pwl")(y), train=train)
        if resizable(self, "skip", y.shape == x.shape):
            return residual(x, DropPath(self.drop_path)(y, train=train))
        return y


def _squeeze_excite(block: DepthwiseSeparable | InvertedResidual, y):
    if not resizable(block, "squeeze", block.reduced > 0):
        return y
    dtypes = {key: block.conv.keywords[key] for key in ("dtype", "param_dtype")}
    names = ("conv_reduce", "conv_expand")
    return SqueezeExcite(block.reduced, activation=block.activation, names=names, **dtypes, name="se", parent=block)(y)


def round_width(width: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least `divisor`, one more where rounding down would lose over a tenth (MobileNetV2's rule)."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded
