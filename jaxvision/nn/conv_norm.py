"""Convolution, normalization, activation: the unit that most convolutional networks repeat, with timm's names `conv` and `bn` for its parts."""

from collections.abc import Callable, Sequence

from flax import linen as nn
from jaxtyping import Array, Float


class ConvNorm(nn.Module):
    """activation(norm(conv(x))).

    Attributes:
      conv, norm: functions that make the two layers: partials of `nn.conv.Conv` and `nn.norm.BatchNorm` that carry what a network says once.
      activation: None leaves it out.
      conv_options: further settings of this convolution alone (groups, padding, kernel_init).
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int
    conv: Callable
    norm: Callable
    activation: Callable | None = nn.relu
    conv_options: tuple[tuple[str, object], ...] = ()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = self.conv(self.features, self.kernel_size, self.strides, **dict(self.conv_options), name="conv")(x)
        y = self.norm(name="bn")(y, train=train)
        return y if self.activation is None else self.activation(y)
