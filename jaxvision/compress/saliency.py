"""Scores of single weights of an untrained network, and the share of each layer that a threshold over all of them keeps.

SNIP (Lee et al. 2019, arXiv 1810.02340): |w dL/dw|. GraSP (Wang et al. 2020, arXiv 2002.07376): w (H g), so that what would lower the gradient's norm
goes first. SynFlow (Tanaka et al. 2020, arXiv 2006.05467): |w dR/dw| of R, the sum of the outputs for an image of ones with every weight's absolute
value, which needs no data; in rounds. ERK (Evci et al. 2020, arXiv 1911.11134) and uniform shares need no scores. Scores are of kernels alone,
normalized as in SynFlow's published code; what is masked is zero, and its scores are too.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxvision.trees import map_named, named_leaves

GRASP_TEMPERATURE = 200.0
# Images of ones are scaled by the first of these for which the sum of deep networks is a finite float32; the scores' order is that of 1.
SCALES = (1.0, 1e-12, 1e-24)
Scores = dict[str, jax.Array]


def is_kernel(name: str, leaf: Any) -> bool:
    """Whether a parameter is pruned: kernels of convolutions and dense layers."""
    return name.rpartition("/")[2] == "kernel" and len(leaf.shape) > 1


def kernels(params: Any) -> dict[str, Any]:
    """{name: leaf} of the parameters that are pruned."""
    return {name: leaf for name, leaf in named_leaves(params).items() if is_kernel(name, leaf)}


def neutral(params: Any) -> Any:
    """Parameters with norms that neither scale nor shift: a last norm that starts at zero would hide its branch from every score."""
    fixed = {"scale": jnp.ones_like, "bias": jnp.zeros_like}
    return map_named(lambda name, leaf: fixed.get(name.rpartition("/")[2], lambda x: x)(leaf) if leaf.ndim == 1 else leaf, params)


def magnitude(params: Any) -> Scores:
    return {name: jnp.abs(leaf) for name, leaf in kernels(params).items()}


def random(params: Any, key: jax.Array) -> Scores:
    found = kernels(params)
    return {name: jax.random.normal(k, leaf.shape) for (name, leaf), k in zip(found.items(), jax.random.split(key, len(found)))}


def snip(loss: Callable[[Any], jax.Array], params: Any) -> Scores:
    """|w dL/dw|, of sum 1."""
    gradient = kernels(jax.grad(loss)(params))
    scores = {name: jnp.abs(leaf * gradient[name]) for name, leaf in kernels(params).items()}
    total = sum(score.sum() for score in scores.values())
    return {name: score / total for name, score in scores.items()}


def grasp(loss: Callable[[Any], jax.Array], params: Any) -> Scores:
    """w (H g) of the kernels, divided by the absolute value of its sum; `loss` is of logits divided by GRASP_TEMPERATURE."""
    gradient = lambda p: kernels(jax.grad(loss)(p))
    fixed = jax.lax.stop_gradient(gradient(params))
    product = lambda p: sum((leaf * fixed[name]).sum() for name, leaf in gradient(p).items())
    curved = kernels(jax.grad(product)(params))
    scores = {name: leaf * curved[name] for name, leaf in kernels(params).items()}
    total = jnp.abs(sum(score.sum() for score in scores.values())) + 1e-10
    return {name: score / total for name, score in scores.items()}


def flow(model: nn.Module, variables: Any, image_shape: tuple[int, ...], scale: Any = 1.0) -> jax.Array:
    """Sum of the outputs for one image of ones (times `scale`), all variables by their absolute values."""
    return model.apply(jax.tree.map(jnp.abs, variables), jnp.full((1, *image_shape), 1.0, jnp.float32) * scale, train=False).sum()


def synflow(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> Scores:
    """|w dR/dw|."""
    sums = jnp.stack([flow(model, variables, image_shape, scale) for scale in SCALES])
    scale = jnp.asarray(SCALES)[jnp.argmax(jnp.isfinite(sums))]
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    gradient = kernels(jax.grad(lambda params: flow(model, {**rest, "params": params}, image_shape, scale))(variables["params"]))
    return {name: jnp.abs(leaf * gradient[name]) for name, leaf in kernels(variables["params"]).items()}


def keep(scores: Scores, share: Any) -> dict[str, jax.Array]:
    """Which weights stay: those above the score that a share of 1 - `share` of all does not exceed. Ties at that score go together."""
    ranked = jnp.sort(jnp.concatenate([score.ravel() for score in scores.values()]))
    place = jnp.floor((1.0 - share) * ranked.size + 1e-4).astype(int)
    threshold = jnp.where(place < 1, -jnp.inf, ranked[jnp.maximum(place - 1, 0)])
    return {name: score > threshold for name, score in scores.items()}


def densities(params: Any) -> dict[str, float]:
    """{kernel: share of its weights that is not zero}."""
    return {name: float(np.mean(np.asarray(leaf) != 0)) for name, leaf in kernels(params).items()}


def erk(shapes: Mapping[str, tuple[int, ...]], share: float) -> dict[str, float]:
    """Shares proportional to (sum of a kernel's sides) / (their product), at most 1, that keep `share` of all weights."""
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = share * sum(sizes.values())
    low, high = 0.0, 1 / min(raw.values())
    for _ in range(100):
        middle = (low + high) / 2
        kept = sum(sizes[name] * min(1.0, middle * raw[name]) for name in raw)
        low, high = (middle, high) if kept < budget else (low, middle)
    return {name: min(1.0, low * raw[name]) for name in raw}
