"""Regularizers that live inside a block."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.wide import scale_by


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): drops a residual branch for whole examples, and scales the kept ones by 1/(1-rate).

    Draws from the rng stream "dropout", one number an example, so the draw is the same on any number of devices.
    `rate` may also come with the call, as an array where blocks are scanned over.
    """

    rate: float = 0.0

    def __call__(self, x: Float[Array, "b ..."], *, train: bool, rate: float | Float[Array, ""] | None = None) -> Float[Array, "b ..."]:
        rate = self.rate if rate is None else rate
        if (keep := self._kept(x.shape[0], train, rate)) is None:
            return x
        return jnp.where(jax.lax.expand_dims(keep, range(1, x.ndim)), x / (1.0 - rate), 0).astype(x.dtype)

    def factors(self, batch: int, *, train: bool, rate: float | Float[Array, ""] | None = None) -> Float[Array, "b"]:
        """What a branch of `batch` examples is multiplied by, for an op that does so by itself."""
        rate = self.rate if rate is None else rate
        keep = self._kept(batch, train, rate)
        return jnp.ones(batch) if keep is None else jnp.where(keep, 1.0 / (1.0 - rate), 0.0)

    def _kept(self, batch: int, train: bool, rate):
        if not train or (isinstance(rate, float) and rate == 0.0):
            return None
        return jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, (batch,))


class LayerScale(nn.Module):
    """A learned factor a channel on a residual branch (CaiT, Touvron et al. 2021, arXiv 2103.17239)."""

    init: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return scale_by(x.astype(self.dtype), self.factors(x.shape[-1]))

    @nn.compact
    def factors(self, dim: int) -> Float[Array, "d"]:
        """The factors, for an op that multiplies by itself."""
        return self.param("gamma", nn.initializers.constant(self.init), (dim,), self.param_dtype)


def drop_path_rates(rate: float, depth: int) -> tuple[float, ...]:
    """Rates that rise linearly over `depth` blocks from 0 to `rate`, as all published recipes have them."""
    return tuple(rate * i / max(depth - 1, 1) for i in range(depth))
