"""Normalization of values, in float32 with derivatives in closed form."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalize(
    x: Float[Array, "..."], gain: Float[Array, "..."], shift: Float[Array, "..."], axes: Sequence[int], epsilon: float
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """(x - mean) / sqrt(variance + epsilon) * gain + shift, the mean, and the biased variance, both over `axes`, which they keep with length 1.

    `gain` and `shift` have the statistics' number of axes, and broadcast with them. The forward derivative is written so that its transpose
    is the closed form with two sums, of the gradient and of its product with x - mean; what JAX derives by itself takes four.
    """
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    variance = jnp.square(centred).mean(axes, keepdims=True)
    return centred * (jax.lax.rsqrt(variance + epsilon) * gain) + shift, mean, variance


@normalize.defjvp
def _normalize_jvp(axes, epsilon, primals, tangents):
    (x, gain, shift), (dx, dgain, dshift) = primals, tangents
    y, mean, variance = normalize(x, gain, shift, axes, epsilon)
    count, centred, scale = x.size // mean.size, x - mean, jax.lax.rsqrt(variance + epsilon)
    dmean, half = dx.sum(axes, keepdims=True) / count, (centred * dx).sum(axes, keepdims=True) / count
    slope = scale * gain
    dy = slope * dx + centred * (scale * dgain - slope * jnp.square(scale) * half) + (dshift - slope * dmean)
    return (y, mean, variance), (dy, dmean, 2 * half)


def standardize(x: Float[Array, "..."], axes: Sequence[int], epsilon: float) -> Float[Array, "..."]:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, in float32."""
    one = jnp.ones((1,) * x.ndim)
    return normalize(x.astype(jnp.float32), one, jnp.zeros_like(one), tuple(axes), epsilon)[0]
