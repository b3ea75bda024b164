"""Cross-attention projector of ScaleKD (Fan et al. 2024, arXiv 2411.06786): one network's map, asked for by queries, in the shape of another's.

The map of the student gives keys and values; queries with the grid and the width of the teacher's map, learned or handed in, pick from it, so that
a convolutional map becomes tokens of a transformer whatever the two grids are. As published there is no residual sum around the attention, its
logits are sharpened by a further factor, and the perceptron adds its normalized input. Names and initial values are the published code's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.nn.classifier import torch_bias, torch_kernel
from jaxvision.nn.conv import Conv
from jaxvision.nn.mlp import Mlp
from jaxvision.nn.norm import BatchNorm, LayerNorm
from jaxvision.nn.pointwise import Dense, Pointwise
from jaxvision.nn.residual import residual


class CrossAttention(nn.Module):
    """softmax(sharpness / sqrt(width of a head) q k) v, projected; queries and keys come from different tokens and have different widths."""

    dim: int
    heads: int
    sharpness: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], query: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        if self.dim % self.heads:
            raise ModelError(f"a cross-attention of {self.dim} channels cannot have {self.heads} heads: their number has to divide the channels")
        width, types = self.dim // self.heads, {"kernel_init": torch_kernel, "dtype": self.dtype, "param_dtype": self.param_dtype}

        def split(name: str, tokens: Array) -> Array:
            y = Dense(self.dim, bias_init=torch_bias(tokens.shape[-1]), name=name, **types)(tokens)
            return y.reshape(*y.shape[:2], self.heads, width)

        q, k, v = split("q", query), split("k", x), split("v", x)
        logits = jnp.einsum("bnhd,bthd->bhnt", q, k, preferred_element_type=jnp.float32) * (self.sharpness * width**-0.5)
        y = jnp.einsum("bhnt,bthd->bnhd", jax.nn.softmax(logits).astype(v.dtype), v)
        return Dense(self.dim, bias_init=torch_bias(self.dim), name="proj", **types)(y.reshape(*y.shape[:2], self.dim))


class CrossAttentionProjector(nn.Module):
    """A map (b, p, q, dim) with the grid of the queries, of a map with any grid and any width.

    Attributes:
      dim: channels of the result, and of the queries. heads: of the attention.
      grid: (rows, columns) of queries that are learned; None: `query` is handed in at every call.
      sharpness: factor of the attention's logits beside the usual one.
      norm_groups: see `BatchNorm.groups`.
    """

    dim: int
    heads: int = 8
    grid: tuple[int, int] | None = None
    sharpness: float = 5.0
    norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], query: Float[Array, "b p q d"] | None = None, *, train: bool = False
    ) -> Float[Array, "b p q d"]:
        if (query is None) == (self.grid is None):
            raise ModelError("a cross-attention projector has either queries of its own (grid) or those that it is called with")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        (batch, *size, channels), fan = x.shape, 9 * x.shape[-1]
        y = Conv(channels, 3, kernel_init=torch_kernel, bias_init=torch_bias(fan), name="proj_student_0", **types)(x)
        y = nn.relu(BatchNorm(groups=self.norm_groups, name="proj_student_1", **types)(y, train=train))
        position = self.param("pos_embed", nn.initializers.truncated_normal(0.02), (1, *size, channels), self.param_dtype)
        y = (y + position.astype(y.dtype)).reshape(batch, -1, channels)
        if query is None:
            table = self.param("query", nn.initializers.normal(1.0), (self.grid[0] * self.grid[1], self.dim), self.param_dtype)
            query = table.reshape(1, *self.grid, self.dim)
        grid = query.shape[1:3]
        ask = Pointwise(self.dim, kernel_init=torch_kernel, bias_init=torch_bias(self.dim), name="proj_pos_0", **types)
        query = nn.relu(ask(query)).reshape(query.shape[0], -1, self.dim)
        query = jnp.broadcast_to(query, (batch, *query.shape[1:]))
        y = CrossAttention(self.dim, self.heads, self.sharpness, name="pos_attention", **types)(y, query)
        y = LayerNorm(1e-5, name="norm", **types)(y)
        out = Mlp(4 * self.dim, activation=nn.relu, kernel_init=torch_kernel, bias_init=_mlp_bias(self.dim), name="ffn", **types)(y)
        return residual(y, out).reshape(batch, *grid, self.dim)


def _mlp_bias(dim: int):
    """PyTorch's initial biases of a perceptron dim -> 4 dim -> dim: the layer is known by its width."""
    return lambda key, shape, dtype=jnp.float32: torch_bias(dim if shape == (4 * dim,) else 4 * dim)(key, shape, dtype)
