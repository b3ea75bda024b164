"""What contrastive and self-distilled methods share: views of every picture, a backbone with a projection head, and how well it does meanwhile.

A method is a file that overrides `loss`. The parameters are {"backbone", "projector"[, "prototypes" or "predictor"]}; a later stage takes the
backbone with `init_from="stage:…"` and `init_branch="backbone"`, and these stages themselves start their backbone from `init_from`.

Evaluation asks for no labels of its own: where the data have classes, `test/knn` is the accuracy of the weighted nearest-neighbour vote
(tasks/knn.py) on the backbone's features, and `test/spread` the standard deviation of normalized features times the root of their width: 1 where
they fill the sphere, 0 where all pictures have come to look alike ("collapse", Chen and He 2021, arXiv 2011.10566, figure 2).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.augment.views import make_views, read_views
from jaxvision.errors import ConfigError, nearest
from jaxvision.nn.projector import INITIALIZERS, Layers, Projected, Projector, Prototypes, read_layers, unit
from jaxvision.tasks.base import Task
from jaxvision.tasks.knn import vote
from jaxvision.tasks.networks import build_model
from jaxvision.tasks.state import TrainState

SHARED = ("name", "views", "view_size", "head", "head_init", "monitor", "k", "vote_temperature")


class Pretrain(Task):
    """Keys of config.task beside the method's own. config.augment holds settings of all views (augment/views.py) instead of the usual ones.

    views: groups of views, ({"count": 2}, {"count": 6, "size": 96, "scale": (0.05, 0.14)}). view_size: (height, width) of views that state none,
    by default image_size, which is what the host decodes to.
    head: a name of nn/projector.py's HEADS, or ((width, "bn_relu"[, bias]), …). head_init: "torch", "dino" or "simclr".
    monitor: whether the backbone is evaluated by its nearest neighbours; it then also goes through the training split. k, vote_temperature: of that.
    """

    KEYS: tuple[str, ...] = ()
    HEAD: Any = "moco_v2"
    HEAD_INIT = "torch"
    MOST_VIEWS: int | None = None
    predictor: Layers = ()  # of a perceptron on top of the projections
    splits = ("train", "test")
    branch = "backbone"

    def __init__(self, config, problem):
        name = config.task.name
        for key in config.task:
            if key not in (*SHARED, *self.KEYS):
                raise ConfigError(f"task.{key} is not a key of the task {name!r}; {nearest(key, (*SHARED, *self.KEYS))}")
        if problem.crop:
            raise ConfigError(f"phases: the views of {name!r} have sizes of their own; leave `size` out of the phases")
        get = config.task.get
        size = tuple(get("view_size", config.image_size))
        self.views = read_views(config.augment, get("views", ({"count": 2},)), size)
        if self.MOST_VIEWS and len(self.views) > self.MOST_VIEWS:
            raise ConfigError(f"task.views: {name!r} compares {self.MOST_VIEWS} views of a picture, got {len(self.views)}")
        self.layers, self.head_init = read_layers(get("head", self.HEAD)), get("head_init", self.HEAD_INIT)
        if self.head_init not in INITIALIZERS:
            raise ConfigError(f"task.head_init {self.head_init!r} is unknown; {nearest(self.head_init, INITIALIZERS)}")
        self.monitor = bool(get("monitor", True)) and bool(problem.classes)
        self.k, self.vote_temperature = get("k", 20), float(get("vote_temperature", 0.07))
        self.splits = ("train", "test") if self.monitor else ()
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.augment = type(config)({})
        super().__init__(config, problem)

    def build(self):
        backbone = build_model(self.config, num_classes=0)
        types = {"dtype": backbone.dtype, "param_dtype": backbone.param_dtype}
        groups = getattr(backbone, "norm_groups", 1)
        perceptron = lambda layers: Projector(layers, self.head_init, norm_groups=groups, **types) if layers else None
        return Projected(backbone, perceptron(self.layers), self.build_prototypes(), perceptron(self.predictor))

    def build_prototypes(self) -> Prototypes | None:
        return None

    def init_variables(self, key, shapes):
        channels = shapes["image"].shape[-1]
        views = tuple(jnp.zeros((1, *view.size, channels), jnp.float32) for view in self.views)
        return self.model.init(key, views, train=False)

    def prepare(self, batch, key, *, train):
        if not train:
            return super().prepare(batch, key, train=False)
        batch, valid = dict(batch), batch["valid"].astype(jnp.float32)
        row = jnp.arange(valid.shape[0])
        batch["views"] = make_views(key, batch.pop("image"), row, self.views, mean=self.constants["mean"], std=self.constants["std"])
        batch["weight"] = valid / jnp.maximum(valid.mean(), 1e-9)
        return batch

    def project(self, params, stats, views, key) -> tuple[Float[Array, "b v e"], Any, dict[str, Any]]:
        """(projections of length 1; scores of prototypes, predictions or None; new batch statistics) of a training pass."""
        variables = {"params": params, **({"batch_stats": stats} if stats else {})}
        (y, scores), new = self.model.apply(variables, views, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        return unit(y), scores, new.get("batch_stats", {})

    # --- evaluation: the backbone alone ---

    def backbone_features(self, variables, image) -> Float[Array, "b d"]:
        """The backbone's features in evaluation, of length 1."""
        return unit(self.model.apply(variables, image, method="features"))

    def evaluate(self, variables, state: TrainState, batch):
        # Averaged weights are judged where there are any; once is enough for a monitor.
        rows = {"features": self.backbone_features(self.variables(state), batch["image"])}
        return {}, rows | ({"label": batch["label"]} if "label" in batch else {})

    def summarize(self, rows, names):
        if not self.monitor:
            return {}
        train, test = rows["train"], rows["test"]
        k = min(self.k, len(train["label"]))
        predicted = vote(train, test["features"], (k,), self.vote_temperature)[k]
        width = test["features"].shape[1]
        return {"knn": float((predicted == test["label"]).mean()), "spread": float(test["features"].std(0).mean() * np.sqrt(width))}

    def predict(self, state, batch):
        batch = Task.prepare(self, batch, state.key, train=False)
        return {"features": self.model.apply(self.variables(state), batch["image"], method="features")}


def statistics(extra: dict[str, Any]) -> dict[str, Any]:
    """The batch statistics that a state carries, {} where the network has none."""
    return extra.get("batch_stats", {})


def kept(stats: dict[str, Any]) -> dict[str, Any]:
    """`stats` as what a loss returns under "extra"."""
    return {"batch_stats": stats} if stats else {}


def log_of(metrics: dict[str, jax.Array], weight: Float[Array, "b"]) -> dict[str, jax.Array]:
    """Weighted means over the pictures, of (b,) or (b, views)."""
    return {name: (value.reshape(len(weight), -1).mean(1) * weight).mean() for name, value in metrics.items()}
