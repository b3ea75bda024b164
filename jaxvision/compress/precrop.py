"""PreCrop: channel widths before training from densities of layers (Cai, Hua, Chen, Su, De Sa and Zhang, arXiv 2203.02549).

What matters of pruning at initialization is how many weights each layer keeps, and not which. So the best densities are found by SynExp, the
expectation of SynFlow's sum over random masks, and each layer is then built with the square root of its density of its input and of its output
channels: a small dense network that is trained from scratch. Without the bound at density 1 and with a bound on multiply-adds the same gives
networks of another shape instead of smaller ones (PreConfig).

The expectation factorizes over every path through the network, so it is the sum of one forward pass in which each weight is replaced by its layer's
density times its layer's mean absolute value. At its maximum each layer's share of that flow equals (a multiplier) x (its weights kept), unless it
is kept whole. For a chain that is a closed form. Of parallel paths the maximum keeps the cheapest alone: iterated on a residual network the condition
leaves branches without weights (seen on a ResNet at a tenth of its weights). So we take the shares that the layers have in the whole network, which
for a chain is the same. The paper does not say how unequal neighbours and residual sums are reconciled: we choose one width a component of tied
channels, by weighted least squares of the logarithms, and fill the budget with what rounding left.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy.optimize import lsq_linear

from jaxvision.compress.doubles import in_double
from jaxvision.compress.graph import Graph
from jaxvision.compress.saliency import flow, kernels
from jaxvision.errors import ConfigError
from jaxvision.trees import map_named

LEAST = 1e-6  # of a density


@dataclasses.dataclass(frozen=True)
class Layer:
    """A kernel.

    Attributes:
      window: weights of one pair of channels. positions: output positions of one image.
      inputs, outputs: {component: entries a unit} of the two axes of channels, and under None the entries that no component owns.
    """

    name: str
    window: int
    positions: int
    inputs: Mapping[str | None, int]
    outputs: Mapping[str | None, int]

    def weights(self, units: Mapping[str, float]) -> float:
        side = lambda axis: sum(entries * (1 if name is None else units[name]) for name, entries in axis.items())
        return self.window * side(self.inputs) * side(self.outputs)


def layers_of(graph: Graph, params: Any) -> tuple[Layer, ...]:
    """The kernels of a network in the order of its parameters."""
    where: dict[tuple[str, int], dict[str, int]] = {}
    for component in graph.components:
        for place in component.places:
            where.setdefault((place.leaf, place.axis), {})[component.name] = place.index.shape[1]
    units = {component.name: component.units for component in graph.components}
    layers = []
    for name, leaf in kernels(params).items():
        sides = []
        for axis in (leaf.ndim - 2, leaf.ndim - 1):
            owned = where.get((f"params/{name}", axis), {})
            sides.append({**owned, None: leaf.shape[axis] - sum(units[c] * entries for c, entries in owned.items())})
        layers.append(Layer(name, math.prod(leaf.shape[:-2]), graph.positions.get(f"params/{name}", 1), *sides))
    return tuple(layers)


def total(layers: tuple[Layer, ...], units: Mapping[str, float], flops: bool = False) -> float:
    """Weights of all kernels, or their multiply-adds for one image."""
    return sum(layer.weights(units) * (layer.positions if flops else 1) for layer in layers)


# --- densities ---


def flow_shares(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """A function: densities of the kernels -> each one's share of the expected flow, d log E[R] / d log p: 1 in a chain, less in a branch."""
    means = {name: np.abs(np.asarray(leaf, np.float64)).mean() for name, leaf in kernels(variables["params"]).items()}
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def expected(levels):
        level = dict(zip(means, levels))
        spread = lambda name, leaf: jnp.full_like(leaf, level[name]) if name in level else leaf
        return flow(model, {**rest, "params": map_named(spread, variables["params"])}, image_shape)

    with jax.enable_x64(True):
        wide = in_double(expected, jax.ShapeDtypeStruct((len(means),), jnp.float32))
        slope = jax.jit(jax.value_and_grad(wide))

    def shares(densities):
        levels = np.asarray(densities, np.float64) * np.asarray(list(means.values()))
        with jax.enable_x64(True):
            value, gradient = slope(jnp.asarray(levels))
            return np.asarray(gradient) * levels / float(value)

    return shares


def water_fill(
    shares: np.ndarray, weights: np.ndarray, budget: float, most: float = 1.0, costs: np.ndarray | None = None, cost_budget: float = math.inf
) -> np.ndarray:
    """Densities min(most, share / (a weights + b costs)) that meet the budget(s); b is 0 unless the cost's is met only with it."""
    shares, costs = np.maximum(shares, 1e-12), np.zeros_like(weights) if costs is None else costs

    def at(b):
        fill = lambda a: np.minimum(most, shares / np.maximum(a * weights + b * costs, 1e-300))
        if weights @ fill(0.0) <= budget:
            return fill(0.0)
        low, high = -60.0, 60.0  # logarithms
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if weights @ fill(math.exp(middle)) > budget else (low, middle)
        return fill(math.exp(high))

    filled = at(0.0)
    if costs @ filled <= cost_budget:
        return np.maximum(filled, LEAST)
    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if costs @ at(math.exp(middle)) > cost_budget else (low, middle)
    return np.maximum(at(math.exp(high)), LEAST)


def synexp(
    shares: Callable[[np.ndarray], np.ndarray],
    weights: np.ndarray,
    budget: float,
    most: float = 1.0,
    costs: np.ndarray | None = None,
    cost_budget: float = math.inf,
    rounds: int = 1,
) -> tuple[np.ndarray, float]:
    """(densities within the budgets that fit the shares of the expected flow, largest change of a logarithm in the last round).

    rounds: 1 takes the shares of the whole network; further ones take those at the densities found, up to a maximum of the expected flow.
    """
    found, change = np.ones(len(weights)), math.inf
    for number in range(rounds):
        wanted = water_fill(shares(found), weights, budget, most, costs, cost_budget)
        change = float(np.abs(np.log(wanted) - np.log(found)).max())
        if change < 1e-5:
            return wanted, change
        found = wanted if number == 0 else np.sqrt(found * wanted)
    return found, change


# --- widths ---


def crop(
    graph: Graph,
    layers: tuple[Layer, ...],
    densities: Mapping[str, float],
    budget: float,
    *,
    most: float = 1.0,
    divisor: int = 1,
    flops_budget: float = math.inf,
) -> dict[str, int]:
    """{component: units} of the network that realizes these densities of its kernels within `budget` weights.

    Args:
      most: of a component's width as a multiple of its own; 1 shrinks only.
      divisor: widths are multiples of this where units are single channels.

    Raises ConfigError when even the narrowest network is above a budget.
    """
    full = {component.name: component.units for component in graph.components}
    names, rows, wanted = list(full), [], []
    for layer in layers:
        row = np.zeros(len(names))
        for side in (layer.inputs, layer.outputs):
            entries = sum(count * (1 if name is None else full[name]) for name, count in side.items())
            for name, count in side.items():
                if name is not None:
                    row[names.index(name)] += count * full[name] / entries
        weight = math.sqrt(layer.weights(full))
        rows.append(weight * row)
        wanted.append(weight * math.log(max(densities[layer.name], LEAST)))
    low = np.log([0.999 / full[name] for name in names])
    logs = lsq_linear(np.asarray(rows), np.asarray(wanted), (low, np.full(len(names), math.log(most) + 1e-9))).x
    single = {component.name: all(place.index.shape[1] == 1 for place in component.written) for component in graph.components}
    step = {name: min(divisor, full[name]) if single[name] else 1 for name in names}
    limit = {name: max(step[name], int(full[name] * most) // step[name] * step[name]) for name in names}
    fits = lambda units: total(layers, units) <= budget and total(layers, units, flops=True) <= flops_budget

    def at(shift):
        ideal = {name: full[name] * math.exp(min(log + shift, math.log(most))) for name, log in zip(names, logs)}
        return ideal, {name: min(limit[name], max(step[name], int(ideal[name] / step[name]) * step[name])) for name in names}

    least = {name: step[name] for name in names}
    if not fits(least):
        raise ConfigError(f"the narrowest network has {total(layers, least):.0f} weights, the budget is {budget:.0f}: ask for a larger share")
    low_shift, high_shift = -40.0, 10.0
    for _ in range(80):
        middle = (low_shift + high_shift) / 2
        low_shift, high_shift = (middle, high_shift) if fits(at(middle)[1]) else (low_shift, middle)
    ideal, units = at(low_shift)
    # What rounding down left goes to the component that is furthest below its width and still fits.
    while True:
        open_ = [name for name in names if units[name] + step[name] <= limit[name] and fits({**units, name: units[name] + step[name]})]
        if not open_:
            return units
        best = max(open_, key=lambda name: ideal[name] / units[name])
        units[best] += step[best]
