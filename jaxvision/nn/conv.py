"""Convolution as the models use it: NHWC, HWIO kernels, PyTorch-like integer padding or "SAME"."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.conv import conv
from jaxvision.kernels.depthwise_conv import depthwise_conv
from jaxvision.kernels.grouped_conv import grouped_conv
from jaxvision.kernels.im2win_conv import im2win_conv
from jaxvision.kernels.wide import add_bias
from jaxvision.nn.resizing import resizable


class Conv(nn.Module):
    """2-D convolution. Parameters `kernel` (kh, kw, in / groups, features) and `bias` (features,).

    Attributes:
      padding: pixels on each side (an integer, or (rows, columns) as PyTorch counts them), explicit ((top, bottom), (left, right)),
        "SAME" (TensorFlow's, which is asymmetric under stride) or "VALID". None: (kernel - 1) // 2 * dilation, PyTorch's usual choice.
      algorithm: "chosen" takes what is fastest for the shapes; "im2win" the convolution by windows of rows, which is a paper's subject.
    """

    features: int
    kernel_size: int | Sequence[int] = 1
    strides: int | Sequence[int] = 1
    padding: int | str | Sequence | None = None
    groups: int = 1
    dilation: int | Sequence[int] = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    bias_init: Callable = nn.initializers.zeros
    algorithm: str = "chosen"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        y, bias = self.apart(x)
        return y if bias is None else add_bias(y, bias)

    @nn.compact
    def apart(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h2 w2 d"], Float[Array, "d"] | None]:
        """The convolution, and the bias that is still to be added to it, for an op that does so by itself; None where there is none."""
        if self.algorithm not in ALGORITHMS:
            raise ModelError(f"a convolution has no algorithm {self.algorithm!r}; {nearest(self.algorithm, ALGORITHMS)}")
        kernel_size, strides, dilation = _pair(self.kernel_size), _pair(self.strides), _pair(self.dilation)
        padding = explicit_padding(self.padding, kernel_size, dilation)
        features, groups = resizable(self, "features", self.features), resizable(self, "groups", self.groups)
        kernel = self.param("kernel", self.kernel_init, (*kernel_size, x.shape[-1] // groups, features), self.param_dtype)
        y = ALGORITHMS[self.algorithm](x.astype(self.dtype), kernel.astype(self.dtype), strides, padding, dilation, groups)
        return y, self.param("bias", self.bias_init, (features,), self.param_dtype) if self.use_bias else None


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw g d"], strides, padding, dilation=1, groups: int = 1, *, implementation: str | None = None
) -> Float[Array, "b h2 w2 d"]:
    """The convolution of `kernels/` that fits: dense, depthwise (a group a channel, as many features), or grouped. Arguments as theirs."""
    if groups == 1:
        return conv(x, kernel, strides, padding, dilation, implementation=implementation)
    if groups == x.shape[-1] == kernel.shape[-1]:
        return depthwise_conv(x, kernel, strides, padding, dilation, implementation=implementation)
    return grouped_conv(x, kernel, groups, strides, padding, dilation, implementation=implementation)


ALGORITHMS = {"chosen": convolve, "im2win": im2win_conv}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def explicit_padding(padding, kernel_size: tuple[int, int], dilation: tuple[int, int]):
    """((top, bottom), (left, right)), or the string that lax understands. See `Conv.padding`."""
    if isinstance(padding, str):
        return padding
    if padding is None:
        padding = tuple((k - 1) // 2 * d for k, d in zip(kernel_size, dilation))
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in _pair(padding))
