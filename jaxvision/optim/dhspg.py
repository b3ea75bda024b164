"""Dual half-space projected gradient (OTOv2, Chen et al. 2023, arXiv 2303.06862): an optimizer that brings a share of groups exactly to zero.

Until `start` it is its base optimizer. There the groups are partitioned once, by how far the step already points to the origin and how small they
are; those to go are then shrunk by a penalty whose weight keeps the step a descent of both the loss and the norm where that is possible, and are
set to zero when a step leaves the half-space of their own direction. Once the target share is zero, the rest trains on as before.

The order of the work within a step, the constants and their defaults are those of the released code. Its Adam starts both moments at the first
gradient and corrects their bias nevertheless; ours is the ordinary one. Where its cap on a component's share binds, which it does not by default,
it brings as many groups to zero as there are too many, drawn at random; ours brings as many as the cap allows, the furthest gone first.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from jaxvision.optim.optimizers import NO_DECAY, OPTIMIZERS, Parts, decay_mask
from jaxvision.optim.settings import choose, number, patterns, setting
from jaxvision.trees import map_named, named_leaves

TINY = 1e-8
DECAY_NORMS = ("l2", "l1")
# What the released code takes with each base optimizer: weight of the penalty, its amplification, and its largest multiple.
PENALTIES = {"sgd": (1e-3, 2.0, 10.0), "adam": (1e-2, 20.0, 1e3)}


@dataclasses.dataclass(frozen=True)
class Partition:
    """Groups of entries of a tree of parameters.

    Attributes:
      axes: {leaf: (axis, number of the group of each entry of that axis, -1 for none)}; a group lies in slices of several leaves.
      sizes: groups of each component; groups are numbered through them.
    """

    axes: Mapping[str, tuple[int, np.ndarray]]
    sizes: tuple[int, ...]

    @property
    def groups(self) -> int:
        return sum(self.sizes)

    @property
    def component(self) -> np.ndarray:
        """(groups,) number of each group's component."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def total(self, a: Any, b: Any) -> Float[Array, "groups"]:
        """Sums over each group of a * b, two trees of the parameters' shapes, in float32."""
        b = named_leaves(b)
        sums = jnp.zeros(self.groups + 1)
        for name, leaf in named_leaves(a).items():
            if name in self.axes:
                axis, groups = self.axes[name]
                product = (leaf.astype(jnp.float32) * b[name].astype(jnp.float32)).sum([i for i in range(leaf.ndim) if i != axis])
                sums = sums.at[groups].add(product)  # -1: the last place, which is none's
        return sums[:-1]

    def spread(self, values: Float[Array, "groups"], name: str, leaf: Any) -> Float[Array, "..."] | None:
        """A value a group at the entries of a leaf, 0 where there is no group; None where the leaf has none."""
        if name not in self.axes:
            return None
        axis, groups = self.axes[name]
        shape = [-1 if i == axis else 1 for i in range(leaf.ndim)]
        return jnp.append(values, jnp.zeros((), values.dtype))[groups].reshape(shape)


class State(NamedTuple):
    count: Array
    direction: Any
    decay: Any
    penalized: Bool[Array, "groups"]


def zero_share(params: Any, partition: Partition) -> Float[Array, ""]:
    """Share of the groups that are exactly zero."""
    return (partition.total(params, params) == 0).mean()


def scores(xx: Float[Array, "g"], vv: Float[Array, "g"], xv: Float[Array, "g"], count: Float[Array, "g"]) -> Float[Array, "g"]:
    """How much each group is to go: half the cosine of x and v, half the inverse of |x| / entries, each divided by its length over all groups."""
    cosine = xv / (jnp.maximum(jnp.sqrt(xx), TINY) * jnp.maximum(jnp.sqrt(vv), TINY))
    inverse = 1 / (jnp.sqrt(xx) / count + 1e-6)
    unit = lambda values: values / jnp.maximum(jnp.linalg.norm(values), 1e-12)
    return 0.5 * unit(cosine) + 0.5 * unit(inverse)


def select(score: Float[Array, "g"], partition: Partition, share: float, divisible: int) -> Bool[Array, "g"]:
    """Which groups are penalized: the best scores, but in each component at least `divisible` stay, and a multiple of it."""
    most = int(partition.groups * min(share, 0.999))
    chosen = jnp.zeros(partition.groups, bool).at[jax.lax.top_k(score, most)[1]].set(True)
    component, sizes = jnp.asarray(partition.component), jnp.asarray(partition.sizes)
    staying = jnp.zeros(len(partition.sizes)).at[component].add(~chosen)
    staying = jnp.maximum(jnp.round(staying / divisible), 1) * divisible
    staying = jnp.where(sizes <= divisible, sizes, staying)
    order = jnp.lexsort((score, component))
    starts = np.cumsum((0, *partition.sizes[:-1]))
    rank = jnp.zeros(partition.groups, int).at[order].set(jnp.arange(partition.groups)) - jnp.asarray(starts)[component]
    return rank >= staying[component]


def capped(gone: Bool[Array, "g"], dead: Bool[Array, "g"], ratio: Float[Array, "g"], partition: Partition, share: float) -> Bool[Array, "g"]:
    """Those of the groups `gone` with the lowest `ratio` that a component may lose beside its `dead` ones, if it may lose `share` of its groups."""
    component, sizes = jnp.asarray(partition.component), np.asarray(partition.sizes)
    allowed = jnp.floor(jnp.asarray(sizes * share + 1e-6)) - jnp.zeros(len(sizes)).at[component].add(dead & ~gone)
    order = jnp.lexsort((jnp.where(gone, ratio, jnp.inf), component))
    rank = jnp.zeros(partition.groups, int).at[order].set(jnp.arange(partition.groups)) - np.cumsum((0, *sizes[:-1]))[partition.component]
    return gone & (rank < allowed[component])


def penalty(xx, vv, xv, weight: float, amplify: float, largest: float) -> Float[Array, "g"]:
    """lambda of each group: `weight`, more where the step would let the group grow, within the two half-spaces where they allow it."""
    norm, grows = jnp.sqrt(xx), xv < 0
    low = jnp.where(grows, -xv / jnp.maximum(norm, 1e-30), 0)
    high = jnp.where(grows, -vv * norm / jnp.where(grows, xv, -1.0), jnp.inf)
    adjusted = jnp.clip(amplify * low, weight, weight * largest)
    adjusted = jnp.where(adjusted >= high, (low + high) / 2, adjusted)
    return jnp.where(grows, adjusted, weight)


def dhspg(
    direction: optax.GradientTransformation,
    rate: Callable[[Any], Any],
    partition: Partition,
    *,
    target: float,
    start: int,
    tolerance: float = 0.05,
    weight: float = 1e-3,
    amplify: float = 2.0,
    largest: float = 10.0,
    epsilon: float = 0.95,
    divisible: int = 1,
    project: int | None = None,
    gentle: int = 0,
    fixed: bool = True,
    most: float = 1.0,
    decay: optax.GradientTransformation | None = None,
    decay_norm: str = "l2",
) -> optax.GradientTransformation:
    """An optax transformation whose updates bring groups of `partition` to zero.

    Args:
      direction: gradient -> v, without the learning rate: `optax.trace(0.9)`, `optax.scale_by_adam()`.
      rate: update's number -> learning rate.
      target: share of the groups to bring to zero. tolerance: by how much more groups are penalized than that.
      start: number of the update at which the groups are partitioned.
      weight, amplify, largest: of the penalty, see `penalty`.
      epsilon: a penalized group goes to zero when <new, old> < epsilon |old|^2.
      divisible: what the number of staying groups of a component is a multiple of.
      project: number of updates before the first projection, `start` by default.
      gentle: number of updates before which lambda is `weight` for every group and none is projected.
      fixed: whether groups that are zero before the first projection stay so.
      most: share of a component's groups that may be zero.
      decay: adds what is decayed beside v, decoupled: `optax.add_decayed_weights(0.01)`.
      decay_norm: of what that decay of a group descends, "l2" its squared norm, or "l1" its norm: w x / |x| in place of w x.
    """
    decay = decay or optax.identity()
    project = start if project is None else project

    def init(params):
        return State(jnp.zeros((), jnp.int32), direction.init(params), decay.init(params), jnp.zeros(partition.groups, bool))

    def update(gradients, state, params):
        if params is None:
            raise ValueError("dhspg needs the parameters")
        lr = rate(state.count)
        v, direction_state = direction.update(gradients, state.direction, params)
        pull, decay_state = decay.update(jax.tree.map(jnp.zeros_like, v), state.decay, params)
        xx, vv, xv = partition.total(params, params), partition.total(v, v), partition.total(params, v)
        ones = jax.tree.map(jnp.ones_like, params)
        best = lambda: select(scores(xx, vv, xv, partition.total(ones, ones)), partition, target + tolerance, divisible)
        penalized = jax.lax.cond(state.count == start, best, lambda: state.penalized)
        norm, dead = jnp.sqrt(xx), xx == 0
        shrinking, begun = penalized & (dead.mean() < target), state.count + 1 >= gentle
        adjusted = penalty(xx, vv, xv, weight, amplify, largest)
        amount = jnp.where(shrinking & ~dead, jnp.where(begun, adjusted, weight) / (norm + TINY), 0.0)

        def trial(name, x, u, d):
            of_group = partition.spread(amount, name, x)
            if of_group is None:
                return x - lr * (u + d)
            if decay_norm == "l1":
                d = d * (1 + partition.spread(1 / (norm + TINY) - 1, name, x))
            return x - lr * (u + d) - lr * of_group * x

        new = map_named(trial, params, v, pull)
        kept = partition.total(new, params)
        leaves = shrinking & (kept < epsilon * xx) & begun & (state.count + 1 >= project)
        if most < 1:
            leaves = capped(leaves, dead, kept / jnp.maximum(xx, 1e-30), partition, most)
        gone = leaves | (dead & (fixed | (state.count + 1 > project)))

        def result(name, x, n):
            off = partition.spread(gone, name, x)
            return (n if off is None else jnp.where(off, 0, n)) - x

        updates = map_named(result, params, new)
        return updates, State(state.count + 1, direction_state, decay_state, penalized)

    return optax.GradientTransformation(init, update)


def make_parts(optim_config: Mapping[str, Any]) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """(direction, decay) of the optimizer that config.optim names: its update without learning rate and without decoupled decay, and that decay."""
    make = choose(OPTIMIZERS, setting(optim_config, "name"), "name")
    amount, no_decay = number(optim_config, "weight_decay"), patterns(optim_config, "no_decay", NO_DECAY)
    mask = lambda tree: decay_mask(tree, no_decay, bool(setting(optim_config, "decay_1d")))
    decay = optax.add_decayed_weights(amount, mask) if amount else optax.identity()
    alone = make(Parts(optim_config, optax.identity(), optax.identity(), optax.identity()))
    in_gradient = setting(optim_config, "decay") == "l2"
    return (optax.chain(decay, alone), optax.identity()) if in_gradient else (alone, decay)
