"""Gated recurrent units (Cho et al. 2014, arXiv 1406.1078), as torch.nn.GRU computes them.

Of the gates r, z, n, in this order in each matrix, n = tanh(W x + b + r (V h + c)): the reset gate acts behind the matrix, which has a bias of its
own, so there are two biases a layer. What reads the sequence is one matrix product for all times; the scan over time holds the rest.

Parameters are arrays that a loop may close over (`weights`), because the body of a `lax.scan` may not create any.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxvision.nn.classifier import torch_bias


class Linear(NamedTuple):
    """x @ kernel + bias."""

    kernel: Float[Array, "c d"]
    bias: Float[Array, "d"]

    def __call__(self, x: Float[Array, "... c"], dtype: Any = jnp.float32) -> Float[Array, "... d"]:
        """Inputs in `dtype`, the sum and the result in float32."""
        product = jnp.dot(x.astype(dtype), self.kernel.astype(dtype), preferred_element_type=jnp.float32)
        return product + self.bias.astype(jnp.float32)


class LinearWeights(nn.Module):
    """The parameters `kernel` and `bias` of a dense layer, by PyTorch's initial values unless others are given, handed out instead of applied."""

    inputs: int
    features: int
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> Linear:
        uniform = torch_bias(self.inputs)
        kernel = self.param("kernel", self.kernel_init or uniform, (self.inputs, self.features), self.param_dtype)
        return Linear(kernel, self.param("bias", self.bias_init or uniform, (self.features,), self.param_dtype))


def drop(key: Array, x: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Dropout of single elements; x itself at rate 0."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0) if rate else x


class Cell(NamedTuple):
    """One layer in one direction: what reads the input, and what reads the state; 3 H columns each."""

    ih: Linear
    hh: Linear

    def __call__(self, read: Float[Array, "b g"], h: Float[Array, "b h"], dtype: Any = jnp.float32) -> Float[Array, "b h"]:
        """The next state; `read` is `ih` of the input."""
        x_r, x_z, x_n = jnp.split(read, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(self.hh(h, dtype), 3, axis=-1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        return (1 - z) * jnp.tanh(x_n + r * h_n) + z * h


def over_time(
    cell: Cell, x: Float[Array, "b t c"], shown: Bool[Array, "b t"] | None, reverse: bool, dtype: Any
) -> tuple[Float[Array, "b t h"], Float[Array, "b h"]]:
    """(states of all times, the last one). Where `shown` is false the state stays as it is, so the backward direction begins at an example's end."""
    read = cell.ih(x, dtype).swapaxes(0, 1)
    start = jnp.zeros((x.shape[0], cell.hh.kernel.shape[0]), jnp.float32)

    def step(h, now):
        read, here = now
        new = cell(read, h, dtype)
        new = new if here is None else jnp.where(here[:, None], new, h)
        return new, new

    last, states = jax.lax.scan(step, start, (read, None if shown is None else shown.swapaxes(0, 1)), reverse=reverse)
    return states.swapaxes(0, 1), last


class GRU(nn.Module):
    """Layers of gated recurrent units.

    Attributes:
      inputs: channels of the sequence.
      hidden: of the state, a direction.
      layers, bidirectional: as torch.nn.GRU's.
      dropout: between layers, in training.
    """

    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def weights(self) -> tuple[tuple[Cell, ...], ...]:
        """The cells, a tuple a layer with one or both directions."""
        init, directions = torch_bias(self.hidden), ("", "_reverse") if self.bidirectional else ("",)

        def linear(kind: str, layer: int, direction: str, inputs: int) -> Linear:
            name = f"{kind}_l{layer}{direction}"
            return LinearWeights(inputs, 3 * self.hidden, init, init, self.param_dtype, name=name)()

        wide = [self.inputs] + [self.hidden * len(directions)] * (self.layers - 1)
        return tuple(
            tuple(Cell(linear("ih", layer, direction, inputs), linear("hh", layer, direction, self.hidden)) for direction in directions)
            for layer, inputs in enumerate(wide)
        )

    def __call__(
        self, x: Float[Array, "b t c"], shown: Bool[Array, "b t"] | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t d"], Float[Array, "n b h"]]:
        """(the last layer's states, both directions beside each other; final states: layer 0 forward, layer 0 backward, layer 1 forward, …)."""
        finals = []
        for layer, cells in enumerate(self.weights()):
            if layer and train:
                x = drop(self.make_rng("dropout"), x, self.dropout)
            made = [over_time(cell, x, shown, bool(direction), self.dtype) for direction, cell in enumerate(cells)]
            x = jnp.concatenate([states for states, _ in made], axis=-1)
            finals += [last for _, last in made]
        return x, jnp.stack(finals)
