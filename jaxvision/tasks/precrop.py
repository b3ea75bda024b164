"""Pruning before training (PreCrop, arXiv 2203.02549): a stage that finds how many weights, or channels, each layer is worth, and trains nothing.

Each step is a round: weights are scored with what is left of them, and a threshold over all layers zeroes the lowest, so that after the last round
the share `density` is left. With `realize="channels"` the densities become widths (compress/precrop.py), written to architecture.json, from which the
next stage builds its network and trains it from scratch (`model.architecture="stage:<name>"`). With `realize="weights"` the next stage starts from
this one and keeps its zeros (`init_from`, `optim.keep_zeros`), which is what the paper compares with.

Batch norm takes the statistics of the batch where scores need data, and its running ones where they do not. Norms count as starting at one.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.compress import precrop, saliency
from jaxvision.compress.architecture import describe, prunable
from jaxvision.compress.change import Change
from jaxvision.errors import ConfigError, nearest
from jaxvision.models.registry import shapes_of
from jaxvision.tasks.base import weighted_mean
from jaxvision.tasks.classify import Classify
from jaxvision.trees import map_named, named_leaves

WITH_DATA, WITHOUT_DATA, WITHOUT_SCORES = ("snip", "grasp"), ("synflow", "magnitude", "random"), ("synexp", "uniform", "erk")
CHOICES = {
    "scores": (*WITH_DATA, *WITHOUT_DATA, *WITHOUT_SCORES),
    "realize": ("channels", "weights"),
    "weights": ("scored", "redrawn", "shuffled"),
    "order": ("found", "reversed"),
}


class PreCrop(Classify):
    """Keys of config.task beside those of "classify":

    density: share of the kernels' weights to keep. scores: where densities come from, see CHOICES.
    realize: "channels" or "weights". divisor: of widths.
    weights: of realize="weights": those that were "scored", others "redrawn" under the same mask, or under one "shuffled" within each layer.
    most: of a width as a multiple of its own; above 1 layers may grow (PreConfig). flops: bound on multiply-adds as a share of the full network's.
    order: "reversed" gives the densities to the layers in reverse, for comparison.
    """

    KEYS = (*Classify.KEYS, "density", "scores", "realize", "divisor", "weights", "most", "flops", "order")
    changes_architecture = True

    def __init__(self, config, problem):
        get = config.task.get
        for key, choices in CHOICES.items():
            if key in config.task and get(key) not in choices:
                raise ConfigError(f"task.{key} {get(key)!r} is unknown; {nearest(get(key), choices)}")
        self.density, self.scores = get("density", 0.5), get("scores", "synexp")
        self.realize, self.drawn = get("realize", "channels"), get("weights", "scored")
        if not 0 < self.density <= 1:
            raise ConfigError(f"task.density is a share of the weights, above 0 and at most 1; got {self.density!r}")
        if self.realize == "weights" and self.scores in WITHOUT_SCORES:
            raise ConfigError(f"task.scores={self.scores!r} names no weights; set task.realize='channels', or scores such as 'synflow'")
        super().__init__(config, problem)
        if config.optim.ema is not None:
            raise ConfigError("nothing is trained here, so nothing is averaged: leave optim.ema out of this stage")

    # --- rounds ---

    def scored(self, params, extra, batch, key):
        """The scores of this round, of networks whose norms are neutral."""
        plain = saliency.neutral(params)
        stats = {name: extra[name] for name in ("batch_stats",) if name in extra}

        def loss(params, temperature=1.0):
            logits, _ = self.model.apply(
                {"params": params, **stats}, batch["image"], train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return weighted_mean(self.per_example_loss(logits / temperature, batch["target"]), batch["weight"])

        if self.scores == "snip":
            return saliency.snip(loss, plain)
        if self.scores == "grasp":
            return saliency.grasp(lambda params: loss(params, saliency.GRASP_TEMPERATURE), plain)
        if self.scores == "synflow":
            return saliency.synflow(self.model, {"params": plain, **stats}, batch["image"].shape[1:])
        return saliency.magnitude(plain) if self.scores == "magnitude" else saliency.random(plain, key)

    def train_step(self, state, batch, *, static=None):
        prepare_key, score_key, mask_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        batch = self.prepare(batch, prepare_key, train=True)
        params, metrics = state.params, {"loss": jnp.zeros(()), "density": jnp.ones(())}
        if self.scores not in WITHOUT_SCORES:
            done = (state.step + 1) / self.problem.total_steps
            # What is masked is zero and stays so: its scores are those of nothing.
            alive = {name: leaf != 0 for name, leaf in saliency.kernels(params).items()}
            scores = {name: jnp.where(alive[name], score, self.lowest) for name, score in self.scored(params, state.extra, batch, score_key).items()}
            mask = saliency.keep(scores, self.density**done)
            params = self.masked(params, mask, state, mask_key)
            kept = sum(part.sum() for part in mask.values()) / sum(part.size for part in mask.values())
            metrics = {"density": kept.astype(jnp.float32), "loss": sum(jnp.where(jnp.isfinite(score), score, 0).sum() for score in scores.values())}
        finite = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]))
        return state.replace(step=state.step + 1, params=params), {**metrics, "finite": finite.astype(jnp.float32)}

    @property
    def lowest(self) -> float:
        """The score of a masked weight: scores are not negative but GraSP's."""
        return -float("inf") if self.scores in ("grasp", "random") else 0.0

    def masked(self, params, mask, state, key):
        if self.drawn != "scored":
            last = state.step + 1 == self.problem.total_steps
            draw_key, shuffle_key = jax.random.split(key)
            fresh = self.model.init(draw_key, jnp.zeros((1, *self.model.image_size, self.problem.channels)), train=False)["params"]
            params = jax.tree.map(lambda new, old: jnp.where(last, new, old), fresh, params)
            if self.drawn == "shuffled":
                keys = jax.random.split(shuffle_key, len(mask))
                mask = {n: jnp.where(last, jax.random.permutation(k, m.ravel()).reshape(m.shape), m) for (n, m), k in zip(mask.items(), keys)}
        return map_named(lambda name, leaf: jnp.where(mask[name], leaf, 0) if name in mask else leaf, params)

    # --- the network that comes of it ---

    def densities(self, variables) -> tuple[dict[str, float], dict[str, float]]:
        """({kernel: density}, figures for people)."""
        shapes = {name: np.shape(leaf) for name, leaf in saliency.kernels(variables["params"]).items()}
        if self.scores == "uniform":
            return dict.fromkeys(shapes, self.density), {}
        if self.scores == "erk":
            return saliency.erk(shapes, self.density), {}
        if self.scores != "synexp":
            return saliency.densities(variables["params"]), {}
        graph = prunable(self.model, self.problem.channels)
        layers = precrop.layers_of(graph, variables["params"])
        sizes = np.asarray([np.prod(shapes[layer.name]) for layer in layers], float)
        costs = sizes * np.asarray([layer.positions for layer in layers])
        plain = {**variables, "params": saliency.neutral(jax.tree.map(jnp.asarray, variables["params"]))}
        shares = precrop.flow_shares(self.model, plain, (*self.model.image_size, self.problem.channels))
        bound = self.config.task.get("flops", None)
        known = {} if bound is None else {"costs": costs, "cost_budget": bound * costs.sum()}
        found, _ = precrop.synexp(shares, sizes, self.density * sizes.sum(), self.config.task.get("most", 1.0) ** 2, **known)
        return {layer.name: float(p) for layer, p in zip(layers, found)}, {}

    def architecture(self, variables) -> Change | None:
        """The cropped network; None where weights are masked and the network stays as it is."""
        if self.realize == "weights":
            return None
        found, figures = self.densities(variables)
        graph = prunable(self.model, self.problem.channels)
        shapes = shapes_of(self.model, self.problem.channels)
        layers = precrop.layers_of(graph, shapes["params"])
        if self.config.task.get("order", "found") == "reversed":
            found = dict(zip(found, reversed(found.values())))
        full = {component.name: component.units for component in graph.components}
        whole, bound = precrop.total(layers, full), self.config.task.get("flops", None)
        units = precrop.crop(
            graph,
            layers,
            found,
            self.density * whole,
            most=self.config.task.get("most", 1.0),
            divisor=self.config.task.get("divisor", 1),
            flops_budget=float("inf") if bound is None else bound * precrop.total(layers, full, flops=True),
        )
        figures |= {
            "weights": precrop.total(layers, units) / whole,
            "multiply_adds": precrop.total(layers, units, flops=True) / precrop.total(layers, full, flops=True),
            **{f"density/{name}": density for name, density in found.items()},
        }
        sizes = sum(leaf.size for leaf in named_leaves(shapes["params"]).values())
        return Change(describe(self.model, graph, units, self.problem.channels), None, {**figures, "parameters_before": float(sizes)})


TASK = PreCrop
