"""The norm before attention and the product that makes queries, keys and values."""

import jax
import jax.numpy as jnp

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.norm_dense import norm_dense


def _case(name: str, tokens: int, channels: int) -> Case:
    def call(x: jax.Array, w: jax.Array, *, implementation: str | None) -> jax.Array:
        return norm_dense(x, w, epsilon=1e-6, implementation=implementation)

    return Case(name, call, lambda batch, dtype: (spec(batch, tokens, channels, dtype=dtype), spec(channels, 3 * channels, dtype=jnp.float32)))


BENCH = (_case("ViT-S/16, 197 tokens", 197, 384), _case("ViT-S/16, 577 tokens", 577, 384))
