"""Two-layer perceptrons, and the residual branch that they are."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.mlp import ahead, gelu, mlp_branch
from jaxvision.kernels.wide import scale_by
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pointwise import Dense, Pointwise
from jaxvision.nn.regularize import DropPath
from jaxvision.nn.residual import residual
from jaxvision.nn.taps import tap, watched

gelu_tanh = functools.partial(nn.gelu, approximate=True)
ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": nn.relu, "silu": nn.silu}


class Around(NamedTuple):
    """What is computed in one op with a block's perceptron.

    Attributes:
      factor: of each example's branch.
      epsilon, scale, bias: of the norm before the perceptron; gain: a factor a channel behind it (None: none).
      shift: what is added to the values before the norm, such as the bias of a convolution (None: nothing).
      skip: what the branch is added to (None: the values themselves).
    """

    factor: Float[Array, "b"]
    epsilon: float
    scale: Float[Array, "c"]
    bias: Float[Array, "c"]
    gain: Float[Array, "c"] | None = None
    shift: Float[Array, "c"] | None = None
    skip: Float[Array, "b *p c"] | None = None

    def branch(self, x: Float[Array, "b *p c"], first: Pointwise, second: Pointwise) -> Float[Array, "b *p c"]:
        """The whole branch of `x` and its residual sum; both layers have biases, and the exact GELU is between them."""
        w1, b1 = first.weights(x.shape[-1])
        w2, b2 = second.weights(w1.shape[-1])  # fewer than the module's own width where the network was cut
        w1, b1 = self.scale[:, None] * w1, b1 + jnp.dot(self.bias, w1, precision="highest")
        if self.gain is not None:
            w2, b2 = w2 * self.gain, b2 * self.gain
        shift = jnp.zeros_like(b2) if self.shift is None else self.shift
        return mlp_branch(x, w1, b1, w2, b2, shift=shift, factor=self.factor, skip=self.skip, epsilon=self.epsilon)


class Mlp(nn.Module):
    """Dense (`fc1`), activation, dropout, dense (`fc2`), dropout, as in every transformer block; `hidden` is the inner width.

    With `around` it is the whole branch and its residual sum; see `mlp_residual`.
    """

    hidden: int
    out: int | None = None
    activation: Callable = gelu
    dropout: float = 0.0
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"], *, train: bool = False, around: Around | None = None) -> Float[Array, "... o"]:
        dense = functools.partial(
            Dense,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        first, second = dense(self.hidden, name="fc1"), dense(self.out or x.shape[-1], name="fc2")
        if around is not None:
            return around.branch(x, first, second)
        y = first(x)
        tap(self, "pre_activation", lambda: y)
        y = self.activation(y)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        return nn.Dropout(self.dropout)(second(y), deterministic=not train)

    def is_one_op(self, x: Float[Array, "b *p d"], *, train: bool) -> bool:
        """Whether the branch of `x` is better computed as one op, and this perceptron is what that op computes."""
        usual = self.activation is gelu and self.use_bias and self.out in (None, x.shape[-1]) and not (train and self.dropout)
        return usual and x.dtype == self.dtype and ahead(x) and not watched(self)


def mlp_residual(
    x: Float[Array, "b *p d"],
    norm: LayerNorm,
    mlp: Mlp,
    drop_path: DropPath,
    *,
    train: bool,
    gain: Float[Array, "d"] | None = None,
    rate: float | Float[Array, ""] | None = None,
) -> Float[Array, "b *p d"]:
    """x + drop_path(gain mlp(norm(x))), the second half of a transformer's block; one op where a kernel is ahead (kernels/mlp).

    Args:
      norm: with scale and bias. gain: the factors of a layer scale (None: none). rate: of stochastic depth, in place of that of `drop_path`.
    """
    if mlp.is_one_op(x, train=train):
        return mlp(x, around=Around(drop_path.factors(len(x), train=train, rate=rate), norm.epsilon, *norm.affine(x.shape[-1]), gain))
    y = mlp(norm(x), train=train)
    return residual(x, drop_path(y if gain is None else scale_by(y, gain), train=train, rate=rate))
