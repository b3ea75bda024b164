"""The base task: what every learning problem shares. A paper usually overrides `loss` alone; see `tasks/classify.py` for the smallest example.

A step, inside one jit:

    key = fold_in(state.key, state.step)
    batch = prepare(batch)                      once: augmentation is the same in every pass over it
    for each player in turn:
        (loss, aux), grads = rule(grad_fn, …)   plain or sharpness-aware; accumulation happens inside grad_fn
        clip -> optax -> new parameters of its subtree
    extra = after_update(…), averaged weights
    not finite -> everything but `step` stays as it was
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxvision import optim
from jaxvision.augment.pipeline import make_augment
from jaxvision.errors import ConfigError
from jaxvision.tasks.networks import build_model, input_constants
from jaxvision.tasks.state import TrainState
from jaxvision.tasks.subtrees import overlay, owns, select
from jaxvision.trees import named_leaves


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a task is told about its data and its run.

    Attributes:
      classes: names; () for unlabelled data.
      channels: of an image.
      train_size: examples an epoch.
      total_steps: of the run.
      steps_per_epoch: train_size / batch size, a fraction.
      frozen: {name: meta of the checkpoint that it is loaded from}.
      crop: how images come to config.image_size in a phase that is smaller than the data: "spectrum" or "resize"; "" where they have that size.
      schedule: (length in updates, what is added to their count) of the learning rate's schedule; None: the whole run's.
      magnitudes: ((first step, RandAugment's magnitude from there), …).
    """

    classes: tuple[str, ...]
    channels: int
    train_size: int
    total_steps: int
    steps_per_epoch: float
    frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    crop: str = ""
    schedule: tuple[int, int] | None = None
    magnitudes: tuple[tuple[int, float], ...] = ()


class Windows(NamedTuple):
    """How a whole example is scored piece by piece, see train/windows.py.

    Attributes:
      size: of a window, of as many axes as the example has.
      overlap: share of a window's side that neighbours have in common at least.
      sigma: deviation of the Gaussian by which a window's scores count, as a share of its side; None: all alike.
    """

    size: tuple[int, ...]
    overlap: float = 0.5
    sigma: float | None = 1 / 8


class Player(NamedTuple):
    """One optimizer and what it plays for.

    Attributes:
      name: key of its optimizer state.
      loss: as `Task.loss`.
      subtree: prefixes of '/'-joined parameter names that it moves; () for all. The rest is constant for it.
      every: it moves at steps divisible by this.
      optim: section of config.optim whose keys go before config.optim's own; "optim" for none.
    """

    name: str
    loss: Callable
    subtree: tuple[str, ...] = ()
    every: int = 1
    optim: str = "optim"


class Task:
    """Base of all tasks. Sub-classes set `self.model` through `build`, and override `loss`, `evaluate`, `predict`, `summarize` as they need."""

    statics: tuple = (None,)
    splits: tuple[str, ...] = ("test",)  # that an evaluation goes through
    changes_architecture: bool = False  # its stage writes architecture.json, from which the next one builds its network
    branch: str = ""  # of the parameters, where the network of config.model lies, which init_from fills; "" where it is all of them
    fresh: str = ""  # regular expression for leaves that begin with their initial values where init_from has none of them: ranges of quantization
    predict_frozen: tuple[str, ...] = ()  # frozen networks that `predict` uses: the final checkpoint carries copies of them
    evaluate_frozen: tuple[str, ...] = ()  # those that `--mode=eval` must have; `evaluate` does without the others where they have gone
    # Leaves of the state beside the model's own that depend on the image size: (regular expression for the end of the '/'-joined name,
    # function(value, old task, new task) -> value), as SIZE_DEPENDENT of a model file.
    size_dependent: tuple = ()
    # Pictures are predicted at their own size, in tiles of this many pixels a side, see train/tiled.py; 0: all at config.image_size.
    tile: int = 0
    # Examples of any size are scored in windows of one size: `predict` gives "scores" of each, and `measure` judges what becomes of a whole example.
    windows: Windows | None = None
    # For people, see train/pictures.py: figures(state, batch) -> {column: images in 0..1}, curves(metrics) -> {name: (x, y, axis labels)}. Where
    # `figures` gives arrays that are no images too, captions(columns) -> {column: what stands beneath each of its images} reads them.
    figures = None
    captions = None
    curves = None

    def __init__(self, config: Any, problem: Problem):
        self.config, self.problem = config, problem
        self.constants = input_constants(config, problem.channels)
        self.augment = self.make_augment()
        self.model = self.build()
        if config.optim.groups > 1 and config.model.get("norm_groups", None) == 1:
            raise ConfigError("model.norm_groups=1 beside optim.groups > 1: batch norm is per group there; leave norm_groups out")
        self.players = self.make_players()
        self.transforms, self.schedules, self.rules = {}, {}, {}
        for player in self.players:
            section = self._optim_section(player)
            total, offset = problem.schedule or (problem.total_steps, 0)
            known = dict(
                total_steps=max(1, total // player.every),
                steps_per_epoch=problem.steps_per_epoch / player.every,
                batch_size=config.batch_size,
                offset=offset // player.every,
            )
            self.transforms[player.name] = optim.make_optimizer(section, **known)
            self.schedules[player.name] = optim.make_schedule(section, **known)
            self.rules[player.name] = optim.make_rule(section, **known)

    def _optim_section(self, player: Player) -> Any:
        own = {} if player.optim == "optim" else self.config.optim[player.optim]
        shared = {key: value for key, value in self.config.optim.items() if not isinstance(value, Mapping) and not hasattr(value, "items")}
        return type(self.config)({**shared, **dict(own)})

    # --- what a sub-class says ---

    def build(self):
        """The trained network; by default config.model's, with one output a class."""
        return build_model(self.config, num_classes=len(self.problem.classes))

    def make_augment(self):
        """What `prepare` applies; by default that of pictures, which config.augment says."""
        config, crop = self.config, self.problem.crop
        size = tuple(config.image_size) if crop else ()
        return make_augment(config.augment, mean=self.constants["mean"], std=self.constants["std"], size=size, crop=crop)

    def make_players(self) -> tuple[Player, ...]:
        return (Player("main", self.loss),)

    def init_variables(self, key: jax.Array, shapes: Mapping[str, Any]) -> dict[str, Any]:
        """All variables of the trained networks: {"params": …, other collections: …}. `shapes`: the batch's, as ShapeDtypeStructs."""
        size = self.augment.size or shapes["image"].shape[1:-1]
        image = jnp.zeros((1, *size, shapes["image"].shape[-1]), jnp.float32)
        return self.model.init(key, image, train=False)

    def init_extra(self, key: jax.Array, params: Any, frozen: Mapping[str, Any]) -> dict[str, Any]:
        """What the method carries along besides collections of the model and averaged weights, which the base class adds."""
        return {}

    def prepare(self, batch: Mapping[str, Any], key: jax.Array, *, train: bool) -> dict[str, Any]:
        """Normalized (and in training augmented) floats from the host's batch, and `weight` (B,), 0 where not valid, of mean 1 in training."""
        batch, valid = dict(batch), batch["valid"].astype(jnp.float32)
        if train:
            row = jnp.arange(valid.shape[0])
            magnitude = batch.pop("magnitude")[0] if "magnitude" in batch else None
            batch["image"] = self.augment.image(key, batch["image"], row, magnitude=magnitude)
            batch["weight"] = valid / jnp.maximum(valid.mean(), 1e-9)
        else:
            batch["image"] = self.augment.normalize(batch["image"])
            batch["weight"] = valid
        return batch

    def loss(self, params, extra, frozen, batch, key, *, static, train) -> tuple[jax.Array, dict[str, Any]]:
        """(scalar, {"metrics": {name: scalar}, "extra": {name: new value}, "outputs": arrays an example}); the last two may be left out.

        `extra` has beside the method's own names "step", the number of steps taken, for schedules of a method's own.

        Scalars are means over the rows given, weighted by batch["weight"], so that means over groups and micro-batches are exact.
        """
        raise TypeError(f"{type(self).__name__} has no loss")

    def constrain(self, params: Any) -> Any:
        """Parameters after an update, brought back to where they live: prototypes of length 1, convex networks, symmetric kernels."""
        return params

    def after_update(self, params, extra, outputs, batch, step) -> dict[str, Any]:
        """`extra` after the players moved: momentum teachers, queues, centres. `outputs`: those of the last player, in batch order."""
        return extra

    def evaluate(self, variables: Mapping[str, Any], state: TrainState, batch: Mapping[str, Any]) -> tuple[dict, dict]:
        """(sums, rows) of one prepared batch; sums: {name: (sum, count)}, rows: small arrays an example."""
        raise TypeError(f"{type(self).__name__} has no evaluate")

    def architecture(self, variables: Mapping[str, Any]) -> Any:
        """Of a task with `changes_architecture`: the `compress.change.Change` of its network after the last step, or None. On the host."""
        raise TypeError(f"{type(self).__name__} changes no architecture")

    def summarize(self, rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
        """Metrics of whole splits: rows[split][name] are numpy arrays sorted by index, invalid and repeated rows dropped. 2-D values are drawn."""
        return {}

    def measure(self, outputs: Mapping[str, Any], example: Mapping[str, Any]) -> dict[str, Any]:
        """On the host, of one whole example: {name: figure, or small array}; `outputs` has "mask", put together from `windows`; `example` is the
        source's record. They reach `summarize` as rows."""
        raise TypeError(f"{type(self).__name__} has no measure")

    def predict(self, state: TrainState, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What `--mode=predict` writes, by kind; see train/predict.py for the writers."""
        raise TypeError(f"{type(self).__name__} has no predict")

    def static(self, step: int):
        """A hashable for this step, one of `statics`; each value is an executable of its own."""
        return None

    # --- what train calls ---

    def init(self, key: jax.Array, shapes: Mapping[str, Any], given: Mapping[str, Any]) -> TrainState:
        """The state before the first step. `given`: {"params": partial tree, "extra": partial, "frozen": {name: variables}}."""
        variables_key, extra_key, run_key = jax.random.split(key, 3)
        variables = dict(self.init_variables(variables_key, shapes))
        params = overlay(variables.pop("params"), given.get("params", {}))
        variables.pop("taps", None)
        collections = {name: overlay(tree, given.get("extra", {}).get(name, {})) for name, tree in variables.items()}
        frozen = dict(given.get("frozen", {}))
        extra = {**collections, **self.init_extra(extra_key, params, frozen)}
        self._check_players(params)
        if self.config.optim.ema is not None:
            extra["ema"] = {"params": params, **collections}
        opt_state = {player.name: self.transforms[player.name].init(select(params, player.subtree)) for player in self.players}
        return TrainState(jnp.zeros((), jnp.int32), run_key, params, opt_state, extra, frozen)

    def _check_players(self, params: Any) -> None:
        for name in named_leaves(params):
            owners = [player.name for player in self.players if owns(player.subtree, name)]
            if len(owners) != 1:
                raise ConfigError(f"parameter {name} belongs to {owners or 'no player'}: the players' subtrees must be disjoint and cover everything")

    def train_step(self, state: TrainState, batch: Mapping[str, Any], *, static=None) -> tuple[TrainState, dict[str, jax.Array]]:
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        with jax.named_scope("prepare"):  # so that a compiled step says what of it is augmentation
            batch = self.prepare(self._with_magnitude(batch, state.step), prepare_key, train=True)
        params, extra, opt_state = state.params, state.extra, dict(state.opt_state)
        metrics: dict[str, jax.Array] = {}
        finite, outputs = jnp.bool_(True), {}
        for number, player in enumerate(self.players):
            key = jax.random.fold_in(loss_key, number)
            move = lambda operand, player=player, key=key: self._move(player, *operand, state, batch, key, static)
            operand = (params, extra, opt_state[player.name])
            if player.every == 1:
                params, extra, opt_state[player.name], own, ok, outputs = move(operand)
            else:
                shapes = jax.eval_shape(move, operand)
                stay = lambda operand, shapes=shapes: (*operand, *_nothing(shapes[3:]))
                params, extra, opt_state[player.name], own, ok, outputs = jax.lax.cond(state.step % player.every == 0, move, stay, operand)
            finite = finite & ok
            metrics.update(own if len(self.players) == 1 else {f"{player.name}/{name}": value for name, value in own.items()})
        extra = self.after_update(params, extra, outputs, batch, state.step)
        if "ema" in extra and self.config.optim.ema is not None:
            live = {"params": params, **{name: extra[name] for name in extra["ema"] if name != "params"}}
            rate, warmup = self.config.optim.ema, self.config.optim.get("ema_warmup", "none")
            extra = {**extra, "ema": optim.ema_update(extra["ema"], live, rate, state.step, warmup=warmup)}
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        new_state = TrainState(
            state.step + 1, state.key, keep(params, state.params), keep(opt_state, state.opt_state), keep(extra, state.extra), state.frozen
        )
        return new_state, {**metrics, "finite": finite.astype(jnp.float32)}

    def _with_magnitude(self, batch: Mapping[str, Any], step: jax.Array) -> Mapping[str, Any]:
        """In a curriculum a column `magnitude` in each batch, so that phases which differ in it alone share an executable; `prepare` takes it out."""
        if not self.problem.magnitudes:
            return batch
        if "valid" not in batch:
            return {name: self._with_magnitude(part, step) for name, part in batch.items()}
        starts, values = (jnp.asarray(column) for column in zip(*self.problem.magnitudes))
        now = values.astype(jnp.float32)[jnp.searchsorted(starts, step, side="right") - 1]
        return {**batch, "magnitude": jnp.broadcast_to(now, batch["valid"].shape)}

    def _move(self, player, params, extra, opt_state, state, batch, key, static):
        mine = select(params, player.subtree)

        def loss(sub, micro, micro_key):
            everything = params if not player.subtree else overlay(jax.lax.stop_gradient(params), sub)
            everything = sub if not player.subtree else everything
            known = {**extra, "step": state.step}
            value, aux = player.loss(everything, known, state.frozen, micro, micro_key, static=static, train=True)
            return value.astype(jnp.float32), {"metrics": {}, "extra": {}, "outputs": {}, **aux}

        grad_fn = accumulate(jax.value_and_grad(loss, has_aux=True), self.config.optim.accumulate)
        (value, aux), grads = self.rules[player.name](grad_fn, mine, batch, key, state.step, groups=self.config.optim.groups)
        norm = optax.global_norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        section = self._optim_section(player)
        if (limit := section.get("clip_each")) is not None:
            grads = jax.tree.map(lambda g: (g * jnp.minimum(1.0, limit / (optax.global_norm(g.astype(jnp.float32)) + 1e-6))).astype(g.dtype), grads)
        if (limit := section.clip) is not None:
            factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
            grads = jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads)
        updates, opt_state = self.transforms[player.name].update(grads, opt_state, mine)
        moved = optax.apply_updates(mine, updates)
        params = self.constrain(overlay(params, moved) if player.subtree else moved)
        metrics = {"loss": value, **aux["metrics"], "grad_norm": norm, "lr": self.schedules[player.name](state.step // player.every)}
        metrics = {name: jnp.asarray(metric, jnp.float32) for name, metric in metrics.items()}
        return params, {**extra, **aux["extra"]}, opt_state, metrics, finite, aux["outputs"]

    def variables(self, state: TrainState, averaged: bool = True) -> dict[str, Any]:
        """What `model.apply` takes: parameters and collections, averaged ones where they exist and are asked for."""
        if averaged and "ema" in state.extra:
            return dict(state.extra["ema"])
        return {"params": state.params, **{name: state.extra[name] for name in ("batch_stats",) if name in state.extra}}

    def eval_step(self, state: TrainState, batch: Mapping[str, Any]) -> tuple[dict, dict]:
        batch = self.prepare(batch, state.key, train=False)
        sums, rows = self.evaluate(self.variables(state), state, batch)
        if "ema" in state.extra:
            raw, _ = self.evaluate(self.variables(state, averaged=False), state, batch)
            sums = {**sums, **{f"raw/{name}": value for name, value in raw.items()}}
        return sums, {**rows, "index": batch["index"], "valid": batch["valid"]}


def accumulate(grad_fn: Callable, count: int) -> Callable:
    """`grad_fn` over `count` micro-batches of equal size, averaged. Micro-batch i takes rows i, i + count, …: each shard keeps its own rows.

    Unrolled: inside `lax.scan` a convolution on the CPU runs an order of magnitude slower.
    """
    if count == 1:
        return grad_fn

    def accumulated(params, batch, key):
        results = []
        for i in range(count):
            micro = jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:])[:, i], batch)
            results.append(grad_fn(params, micro, jax.random.fold_in(key, i)))
        outputs = jax.tree.map(lambda *xs: jnp.stack(xs, 1).reshape(-1, *xs[0].shape[1:]), *(aux.pop("outputs") for (_, aux), _ in results))
        (value, aux), grads = jax.tree.map(lambda *xs: sum(xs[1:], xs[0]) / count, *results)
        return (value, {**aux, "outputs": outputs}), grads

    return accumulated


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """mean(weight * values): with weights of mean 1 over the global batch, exact under any cut into equal parts."""
    return (values.astype(jnp.float32) * weight).mean()


def total(values: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum, count) of the valid rows, as `evaluate` returns them."""
    return (values.astype(jnp.float32) * weight).sum(), weight.sum()


def _nothing(shapes: Any) -> Any:
    """What a player that does not move reports: metrics that are not numbers (the log leaves them out), finite, and empty outputs."""
    metrics, _, outputs = shapes
    nan = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), metrics)
    return nan, jnp.bool_(True), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs)


def count(params: Any) -> int:
    """Number of parameters of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
