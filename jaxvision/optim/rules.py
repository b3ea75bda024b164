"""Gradient rules: how the gradient that the optimizer gets is found from the one of the loss.

"plain" is that gradient. The others ascend first and take the gradient there (w the parameters, g the gradient, one norm over all leaves):

    sam    e = rho g / |g|                                        Foret et al. 2021, arXiv 2010.01412
    asam   e = rho T^2 g / |T g|, T = |w| + eta, 1 for biases       Kwon et al. 2021, arXiv 2102.11600
    gsam   sam's e, then g(w + e) - alpha g_perpendicular          Zhuang et al. 2022, arXiv 2203.08065
           with g_perpendicular the part of g orthogonal to g(w + e), and rho going from rho_min to rho_max with the learning rate

Both passes see the same batch and the same key; loss, metrics and batch statistics are those of the clean pass; weight decay is no part of g; the
optimizer moves w, not w + e; clipping comes after. So a rule holds no state, and resuming a run needs none.

`groups` cuts the batch into blocks of neighbouring rows, each with an ascent of its own, and averages the gradients: m-sharpness, whose m is
batch_size / groups. The paper's codes take each device's rows as a group; here the number is part of the config and devices are not.
Groups are gone through in a Python loop, unrolled: in `lax.scan`, and mapped over parameters, convolutions on the CPU are many times slower.

optax.contrib.sam is not used. Its transparent mode alternates ascent and descent between steps, which runs batch statistics, schedules, averages
and the data on the ascent steps too, and keeps a copy of the parameters in its state. Its opaque mode takes a grad_fn, but has one ascent for
the whole batch, no epsilon in the norm, and hands on neither the loss nor the auxiliary output of the clean pass.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ConfigError
from jaxvision.optim.layers import is_frozen
from jaxvision.optim.schedules import make_schedule, peak_lr
from jaxvision.optim.settings import choose, number, patterns, setting
from jaxvision.trees import map_named

# (params, batch, key) -> ((loss, aux), grads)
GradFn = Callable[[Any, Any, Any], tuple[tuple[Any, Any], Any]]
BATCH_AXES = ("data", "fsdp")
EPSILON = 1e-12


def plain(grad_fn: GradFn, params: Any, batch: Any, key: Any, rho: Any = 0.0):
    """The gradient of the loss."""
    return grad_fn(params, batch, key)


def sam(grad_fn: GradFn, params: Any, batch: Any, key: Any, rho: Any):
    """The gradient at w + rho g / (|g| + 1e-12)."""
    clean, grads = grad_fn(params, batch, key)
    _, there = grad_fn(_ascend(params, grads, rho / (_norm(grads) + EPSILON)), batch, key)
    return clean, there


def asam(grad_fn: GradFn, params: Any, batch: Any, key: Any, rho: Any, *, eta: float = 0.01):
    """The gradient at w + rho T^2 g / (|T g| + 1e-12), so that rescaling layers against each other changes nothing.

    T is 1 for leaves named `bias`, as in the published code, and |w| + eta for all others (that code has 1 for tokens and positions too).
    """
    clean, grads = grad_fn(params, batch, key)
    size = lambda name, w: jnp.float32(1) if name.rsplit("/", 1)[-1] == "bias" else jnp.abs(w.astype(jnp.float32)) + eta
    scaled = map_named(lambda name, w, g: size(name, w) * g.astype(jnp.float32), params, grads)
    step = map_named(lambda name, w, g: size(name, w) * g, params, scaled)
    _, there = grad_fn(_ascend(params, step, rho / (_norm(scaled) + EPSILON)), batch, key)
    return clean, there


def gsam(grad_fn: GradFn, params: Any, batch: Any, key: Any, rho: Any, *, alpha: float = 0.0):
    """SAM's gradient, less alpha times the part of the clean gradient that is orthogonal to it: descends on the surrogate gap too."""
    clean, grads = grad_fn(params, batch, key)
    _, there = grad_fn(_ascend(params, grads, rho / (_norm(grads) + EPSILON)), batch, key)
    norm = _norm(there) + EPSILON
    along = _dot(grads, there) / norm
    orthogonal = jax.tree.map(lambda g, h: g.astype(jnp.float32) - along * (h.astype(jnp.float32) / norm), grads, there)
    return clean, jax.tree.map(lambda h, o: (h.astype(jnp.float32) - alpha * o).astype(h.dtype), there, orthogonal)


def _dot(a: Any, b: Any) -> jax.Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32)), a, b)
    return sum(jax.tree.leaves(products), jnp.float32(0))


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(_dot(tree, tree))


def _ascend(params: Any, direction: Any, size: jax.Array) -> Any:
    return jax.tree.map(lambda w, d: (w.astype(jnp.float32) + size * d.astype(jnp.float32)).astype(w.dtype), params, direction)


def _shards() -> tuple[tuple[str, ...], int]:
    """The axes of the context mesh that cut the batch, outermost first, and how many pieces they make."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types))
    axes = tuple(axis for axis in BATCH_AXES if types.get(axis) == AxisType.Auto and mesh.shape[axis] > 1)
    return axes, math.prod(mesh.shape[axis] for axis in axes)


def _over_groups(one: Callable, params: Any, batch: Any, key: Any, groups: int):
    """Means over `groups` blocks of neighbouring rows of one(params, block, key of the block) -> ((loss, aux), grads).

    Floats of aux are averaged (metrics, batch statistics), other leaves are the first group's; aux["outputs"], arrays an example, come back in
    batch order. Group j's key is fold_in(key, j) on any number of devices.

    Where the shards of the batch divide `groups`, each shard goes through its own groups and only the sums travel. (Not by `vmap`: a convolution
    mapped over its kernel becomes a grouped one, for which the partitioner gathers the whole batch.) Otherwise every group is spread over all
    devices, for which the batch travels once.
    """
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if wrong := [count for count in rows if count % groups]:
        raise ConfigError(f"optim.groups={groups} does not divide the {wrong[0]} examples of a batch")
    axes, shards = _shards()
    if shards == 1:
        result, outputs = _average(one, params, _cut(batch, groups), key, range(groups), groups)
    elif groups % shards == 0:
        each = groups // shards

        def of_shard(params, batch, key):
            numbers = [jax.lax.axis_index(axes) * each + k for k in range(each)]
            return _average(one, params, _cut(batch, each), key, numbers, groups, axes)

        mapped = jax.shard_map(of_shard, in_specs=(P(), P(axes), P()), out_specs=(P(), P(axes)), axis_names=set(axes), check_vma=False)
        result, outputs = mapped(params, batch, key)
    elif all(count // groups % shards == 0 for count in rows):
        spread = jax.lax.with_sharding_constraint(_cut(batch, groups), P(None, axes))
        result, outputs = _average(one, params, spread, key, range(groups), groups)
    else:
        raise ConfigError(
            f"optim.groups={groups} fits {max(rows)} examples on {shards} shards (mesh.data x mesh.fsdp) neither way: "
            f"take a multiple of {shards} groups, or groups of a multiple of {shards} examples"
        )
    (loss, aux), grads = result
    return (loss, {**aux, "outputs": outputs} if outputs is not None else aux), grads


def _cut(batch: Any, groups: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(groups, x.shape[0] // groups, *x.shape[1:]), batch)


def _average(one: Callable, params: Any, blocks: Any, key: Any, numbers: Sequence, groups: int, axes: tuple[str, ...] = ()):
    """(((mean loss, mean aux), mean gradient) without aux["outputs"], and those one after the other, or None).

    `numbers` of the `groups` groups are gone through here, the others by the other shards along `axes`. Added up in float32 at least.
    """

    def mean(*parts):
        if not jnp.issubdtype(parts[0].dtype, jnp.floating):
            return jax.lax.all_gather(parts[0], axes)[0] if axes else parts[0]
        wide = jnp.promote_types(parts[0].dtype, jnp.float32)
        added = sum((part.astype(wide) for part in parts[1:]), parts[0].astype(wide))
        return ((jax.lax.psum(added, axes) if axes else added) / groups).astype(parts[0].dtype)

    results, kept = [], []
    for k, group in enumerate(numbers):
        (loss, aux), grads = one(params, jax.tree.map(lambda x: x[k], blocks), jax.random.fold_in(key, group))
        if isinstance(aux, dict) and "outputs" in aux:
            kept.append(aux["outputs"])
            aux = {name: value for name, value in aux.items() if name != "outputs"}
        results.append(((loss, aux), grads))
    outputs = jax.tree.map(lambda *xs: jnp.concatenate(xs), *kept) if kept else None
    return jax.tree.map(mean, *results), outputs


def _radius(optim_config: Mapping[str, Any], run: Mapping[str, Any]) -> Callable[[Any], Any]:
    """The function step -> rho: constant, or for "gsam" from rho_min to rho_max as the learning rate goes from lr_end to its highest."""
    low, high = (number(optim_config, key, number(optim_config, "rho")) for key in ("rho_min", "rho_max"))
    if setting(optim_config, "rule") != "gsam" and (optim_config.get("rho_min") is not None or optim_config.get("rho_max") is not None):
        raise ConfigError("optim.rho_min and optim.rho_max are for optim.rule='gsam'; the other rules take optim.rho")
    if low > high:
        raise ConfigError(f"optim.rho_min={low:g} is above optim.rho_max={high:g}")
    if low == high:
        return lambda step: high
    if not run:
        raise ConfigError("optim.rho_min differs from optim.rho_max, so rho follows the learning rate: make_rule needs total_steps and the rest")
    schedule, top, bottom = make_schedule(optim_config, **run), peak_lr(optim_config, run["batch_size"]), number(optim_config, "lr_end")
    # In warm-up the rate begins below lr_end; the radius does not go below rho_min.
    return lambda step: low + (high - low) * jnp.clip((schedule(step) - bottom) / max(top - bottom, EPSILON), 0.0, 1.0)


# rule -> (function of one group, {its keyword: key of config.optim})
RULES: dict[str, tuple[Callable, dict[str, str]]] = {
    "plain": (plain, {}),
    "sam": (sam, {}),
    "asam": (asam, {"eta": "eta"}),
    "gsam": (gsam, {"alpha": "alpha"}),
}


def make_rule(optim_config: Mapping[str, Any], **run: Any) -> Callable:
    """rule(grad_fn, params, batch, key, step, *, groups) -> ((loss, aux), grads) for config.optim.

    grad_fn(params, batch, key) -> ((loss, aux), grads); batch: a dict (of dicts) of arrays, batch axis first. With one group the key is handed on as
    it is. Gradients of leaves that `freeze` names are zero, so they add nothing to the norms of the ascent and of clipping, and XLA leaves out
    what would compute them.

    Args:
      run: total_steps, steps_per_epoch and batch_size, as make_schedule takes them; needed where rho_min and rho_max differ.

    Raises ConfigError for an unknown rule and for values out of range; the rule itself for groups that fit neither the batch nor the mesh.
    """
    one, keywords = choose(RULES, setting(optim_config, "rule"), "rule")
    options = {keyword: number(optim_config, key) for keyword, key in keywords.items()}
    radius, freeze = _radius(optim_config, run), patterns(optim_config, "freeze")

    def rule(grad_fn: GradFn, params: Any, batch: Any, key: Any, step: Any, *, groups: int = 1):
        if freeze:
            grad_fn = _without_frozen(grad_fn, freeze)
        rho = radius(step)
        of_group = lambda params, block, block_key: one(grad_fn, params, block, block_key, rho, **options)
        return of_group(params, batch, key) if groups == 1 else _over_groups(of_group, params, batch, key, groups)

    return rule


def _without_frozen(grad_fn: GradFn, freeze: tuple[str, ...]) -> GradFn:
    def trained(params, batch, key):
        clean, grads = grad_fn(params, batch, key)
        return clean, map_named(lambda name, g: jnp.zeros_like(g) if is_frozen(name, freeze) else g, grads)

    return trained
