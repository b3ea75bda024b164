"""How sharp a minimum is: the measures by which "When Vision Transformers Outperform ResNets…" (Chen et al. 2022, arXiv 2106.01548) compares runs.

Every `loss_fn(params, *args)` returns a scalar; give the data as `args`, so that they are arguments of the compiled function and not constants in
it. Parameters and arithmetic are float32, one function is compiled a call, and the loops run in Python, so memory is that of one gradient of a
gradient and a few copies of the parameters.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxvision.errors import ConfigError, nearest
from jaxvision.trees import map_named, named_leaves


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _normal_like(key: Any, tree: Any) -> Any:
    """Standard normal numbers, one key a leaf."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [jax.random.normal(k, leaf.shape, jnp.float32) for k, leaf in zip(keys, leaves)])


def _dot(a: Any, b: Any) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)), jnp.float32(0))


def _moved(params: Any, size: Any, direction: Any) -> Any:
    return jax.tree.map(lambda w, d: w + size * d, params, direction)


def dominant_eigenvalue(loss_fn: Callable, params: Any, key: Any, *args: Any, iterations: int = 20, only: str = "") -> float:
    """The eigenvalue of largest magnitude of the Hessian of the loss, with its sign.

    Lanczos on Hessian-vector products, forward over reverse. Without re-orthogonalization three vectors are enough; what is lost by that is
    repeated copies of converged eigenvalues, which do not move the outermost one. It needs fewer products than power iteration does.

    Args:
      key: for the first vector.
      iterations: Hessian-vector products at most; fewer when the vectors span all that the Hessian moves.
      only: regular expression on '/'-joined names; the diagonal block of the leaves that it finds, the others held constant. "": all leaves.

    Raises ConfigError when `only` finds no leaf.
    """
    leaves = named_leaves(_float32(params))
    chosen = {name: leaf for name, leaf in leaves.items() if re.search(only, name)}
    if not chosen:
        raise ConfigError(f"only={only!r} finds no parameter; {nearest(only, leaves)}")

    @jax.jit
    def advance(chosen, rest, args, before, now, beta):
        """One step of the recurrence: H now = beta before + alpha now + beta' next."""

        def loss(block):
            everything = {**rest, **block}
            return loss_fn(map_named(lambda name, _: everything[name], params), *args)

        product = jax.jvp(jax.grad(loss), (chosen,), (now,))[1]
        alpha = _dot(product, now)
        product = jax.tree.map(lambda h, v, u: h - alpha * v - beta * u, product, now, before)
        size = jnp.sqrt(_dot(product, product))
        return alpha, size, jax.tree.map(lambda h: h / jnp.maximum(size, 1e-30), product)

    rest = {name: leaf for name, leaf in leaves.items() if name not in chosen}
    now = _normal_like(key, chosen)
    now = jax.tree.map(lambda v: v / jnp.sqrt(_dot(now, now)), now)
    before, beta = jax.tree.map(jnp.zeros_like, now), jnp.float32(0)
    diagonal, off_diagonal = [], []
    for _ in range(min(iterations, sum(leaf.size for leaf in chosen.values()))):
        alpha, beta, following = advance(chosen, rest, args, before, now, beta)
        before, now = now, following
        diagonal.append(float(alpha))
        off_diagonal.append(float(beta))
        if off_diagonal[-1] <= 1e-6 * max(map(abs, diagonal)):
            break
    tridiagonal = np.diag(diagonal) + np.diag(off_diagonal[:-1], 1) + np.diag(off_diagonal[:-1], -1)
    values = np.linalg.eigvalsh(tridiagonal)
    return float(values[np.abs(values).argmax()])


def gaussian_flatness(loss_fn: Callable, params: Any, key: Any, *args: Any, sigma: float, samples: int = 10) -> float:
    """The mean loss at parameters with independent normal noise of standard deviation `sigma`: E L(w + e). Flat minima keep it near L(w)."""
    params = _float32(params)
    at = jax.jit(lambda params, key, args: loss_fn(_moved(params, sigma, _normal_like(key, params)), *args))
    return float(np.mean([float(at(params, jax.random.fold_in(key, i), args)) for i in range(samples)]))


def filter_normalized(key: Any, params: Any) -> Any:
    """A random direction in which every filter (slice of the last axis) has the norm of the parameters' own; 0 for leaves of one axis.

    Li et al. 2018, arXiv 1712.09913, section 4: without it scale-invariant networks look flat or sharp by the size of their weights alone.
    """

    def normalize(d, w):
        if w.ndim < 2:
            return jnp.zeros_like(d)
        norm = lambda x: jnp.sqrt(jnp.square(x).sum(tuple(range(x.ndim - 1)), keepdims=True))
        return d * (norm(w) / jnp.maximum(norm(d), 1e-12))

    params = _float32(params)
    return jax.tree.map(normalize, _normal_like(key, params), params)


def landscape(
    loss_fn: Callable, params: Any, key: Any, *args: Any, span: float = 1.0, points: int = 11
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points points"]]:
    """(offsets, losses): the loss at w + offsets[i] a + offsets[j] b, along two random filter-normalized directions a and b.

    Offsets are `points` equal steps from -span to span; an odd number includes the parameters themselves.
    """
    params = _float32(params)
    a, b = (filter_normalized(jax.random.fold_in(key, i), params) for i in range(2))
    at = jax.jit(lambda params, a, b, x, y, args: loss_fn(_moved(_moved(params, x, a), y, b), *args))
    offsets = np.linspace(-span, span, points, dtype=np.float32)
    return offsets, np.asarray([[float(at(params, a, b, x, y, args)) for y in offsets] for x in offsets], np.float32)


def active_share(activations: Any, only: str = "") -> dict[str, float]:
    """{name: share of elements above 0} of a tree of values before their activation, such as the taps of a model: 1 minus the sparsity.

    Args:
      only: regular expression on '/'-joined names; "pre_activation" finds the hidden units of every `nn.mlp.Mlp`.
    """
    return {name: float(jnp.mean(leaf > 0)) for name, leaf in named_leaves(activations).items() if re.search(only, name)}
