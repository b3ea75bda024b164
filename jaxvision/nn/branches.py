"""Parallel branches of convolutions, as the Inception networks are drawn: tables of steps, run side by side and concatenated."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.nn.pool import avg_pool, max_pool


class Step(NamedTuple):
    """One convolution unit of a branch: rows and columns of its window, channels, stride; padding None keeps the size, 0 is VALID."""

    rows: int
    columns: int
    features: int
    strides: int = 1
    padding: int | None = None


class Pool(NamedTuple):
    """A parameter-free step."""

    run: Callable


valid = functools.partial(Step, padding=0)
# Windows of 3x3: the maximum at stride 2 without padding, and the mean at stride 1 with padding that does not count.
MAX = Pool(functools.partial(max_pool, window=3, strides=2))
MEAN = Pool(functools.partial(avg_pool, window=3, strides=1, padding=1))

Branch = tuple[Step | Pool, ...]


def step(x: Float[Array, "b h w c"], this: Step | Pool, unit: Callable, name: str, train: bool) -> Float[Array, "b h2 w2 d"]:
    """Runs one step; `unit` makes a `nn.conv_norm.ConvNorm` in the compact module that calls."""
    if isinstance(this, Pool):
        return this.run(x)
    kernel = (this.rows, this.columns)
    return unit(this.features, kernel, this.strides, conv_options=(("padding", this.padding),), name=name)(x, train)


def branches(
    x: Float[Array, "b h w c"], table: Sequence[Branch], unit: Callable, train: bool, names: Sequence[str] | None = None
) -> Float[Array, "b h2 w2 d"]:
    """Runs every branch on `x` and concatenates the channels in the table's order. Called from a compact method, whose module gets the parameters.

    The unit of a branch of one step is called `branch0`, … (or by `names`); those of longer ones `branch0_0`, … by their place, pools counted.
    """
    outputs = []
    for name, branch in zip(names or [f"branch{i}" for i in range(len(table))], table):
        y = x
        for i, this in enumerate(branch):
            y = step(y, this, unit, name if len(branch) == 1 else f"{name}_{i}", train)
        outputs.append(y)
    return jnp.concatenate(outputs, axis=-1)


class Branches(nn.Module):
    """`branches` as a block of its own."""

    table: tuple[Branch, ...]
    unit: Callable
    names: tuple[str, ...] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        return branches(x, self.table, self.unit, train, self.names)
