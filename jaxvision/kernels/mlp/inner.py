"""What the two kernels share: the GELU inside, and the normalization before the first layer.

In bfloat16 the normal distribution's share below x is 0.5 + 0.5 tanh(x (c0 + c1 s + c2 s^2)), s = min(x^2, 36), off by at most 1.9e-5 (GELU by
5.5e-5); erf, a dozen operations of the vector unit longer, took more than half of the kernel's time. In float32 it is erf.
"""

import functools
import math

import jax.numpy as jnp
from jax import lax

TANH = (7.97717586e-01, 3.67986361e-02, -3.15890019e-04)
DENSITY = math.sqrt(0.5 / math.pi)

dot = functools.partial(lax.dot_general, preferred_element_type=jnp.float32)
NN, NT = ((((1,), (n,)), ((), ())) for n in (0, 1))


def share_below(x, dtype):
    """The share of the normal distribution below x: GELU is x times that."""
    if dtype == jnp.float32:
        return 0.5 + 0.5 * lax.erf(math.sqrt(0.5) * x)
    s, (c0, c1, c2) = jnp.minimum(x * x, 36.0), TANH
    return 0.5 + 0.5 * jnp.tanh(x * (c0 + s * (c1 + s * c2)))


def slope(x, below):
    """GELU's derivative, `below` being the share below x."""
    return below + x * (DENSITY * jnp.exp2((-0.5 * math.log2(math.e)) * (x * x)))


def standardized(x, axis: int, epsilon: float | None, dtype):
    """float32 values with mean 0 and variance 1 over `axis`, the same in `dtype`, and the factor that brought the variance about (None: as given)."""
    if epsilon is None:
        return x, x.astype(dtype), None
    x = x - x.mean(axis, keepdims=True)
    factor = lax.rsqrt(jnp.square(x).mean(axis, keepdims=True) + epsilon)
    x = x * factor
    return x, x.astype(dtype), factor


def through_norm(gradient, standard, factor, axis: int):
    """The gradient before the normalization, of that behind it."""
    if factor is None:
        return gradient
    mean = lambda value: value.mean(axis, keepdims=True)
    return factor * (gradient - mean(gradient) - standard * mean(gradient * standard))
