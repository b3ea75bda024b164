"""Nearest-neighbour probe: how well the classes of the test pictures follow from their nearest training pictures in a backbone's feature space.

As published with DINO (Caron et al. 2021, arXiv 2104.14294; the weighting is of Wu et al. 2018, arXiv 1805.01978): features are normalized to
length 1, and each of the k nearest training pictures votes for its class with weight exp(similarity / temperature), k = 20 and temperature 0.07.

Nothing is trained: set `steps=1`, name the backbone by `init_from` (with `reinit_head=True`, since the head is not used); a step changes nothing,
and the evaluation goes through the training split without augmentation and then through the test split. The features are what `num_classes=0` gives.
All of them are held on the host: 4 bytes x width an example, 3.9 GB for ImageNet at width 768.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.base import Task
from jaxvision.tasks.networks import build_model

KEYS = ("name", "k", "temperature")


class Knn(Task):
    """Keys of config.task: `k`, one number of neighbours or several (20; `accuracy` is of the first, `accuracy_k<k>` of each), and
    `temperature` (0.07).
    """

    splits = ("train", "test")

    def __init__(self, config, problem):
        for key in config.task:
            if key not in KEYS:
                raise ConfigError(f"task.{key} is not a key of the task 'knn'; {nearest(key, KEYS)}")
        k, self.temperature = config.task.get("k", 20), float(config.task.get("temperature", 0.07))
        self.k = (k,) if isinstance(k, int) else tuple(k)
        if not self.k or not all(isinstance(number, int) and 0 < number <= problem.train_size for number in self.k):
            raise ConfigError(f"task.k is {k!r}; it takes numbers of neighbours from 1 to the {problem.train_size} training examples")
        if not self.temperature > 0:
            raise ConfigError(f"task.temperature is {self.temperature:g}; it must be above 0")
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.optim.freeze, config.optim.ema = ("",), None
        super().__init__(config, problem)
        self.backbone = self.model.clone(num_classes=0)

    def build(self):
        # With a head, so that a classifier's checkpoint fits as it is; the features come from a clone without.
        return build_model(self.config, num_classes=max(1, len(self.problem.classes)))

    def train_step(self, state, batch, *, static=None):
        return state.replace(step=state.step + 1), {"finite": jnp.ones(())}

    def features(self, variables, image) -> jax.Array:
        """(B, d) float32 of length 1."""
        features = self.backbone.apply(variables, image, train=False).astype(jnp.float32)
        return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)

    def evaluate(self, variables, state, batch):
        return {}, {"features": self.features(variables, batch["image"]), "label": batch["label"]}

    def summarize(self, rows, names):
        found = vote(rows["train"], rows["test"]["features"], self.k, self.temperature)
        accuracies = {k: float((predicted == rows["test"]["label"]).mean()) for k, predicted in found.items()}
        each = {f"accuracy_k{k}": accuracy for k, accuracy in accuracies.items()} if len(self.k) > 1 else {}
        return {"accuracy": accuracies[self.k[0]], **each}

    def predict(self, state, batch) -> dict[str, Any]:
        batch = self.prepare(batch, state.key, train=False)
        return {"features": self.features(self.variables(state), batch["image"])}


def vote(
    train: dict[str, np.ndarray], features: Float[np.ndarray, "n d"], ks: tuple[int, ...], temperature: float
) -> dict[int, Int[np.ndarray, "n"]]:
    """{k: predicted labels of `features`} by the k nearest of train["features"] (m, d) with train["label"] (m,)."""
    from sklearn.neighbors import KNeighborsClassifier

    weights = lambda distance: np.exp((1 - distance) / temperature)  # a cosine distance is 1 - similarity
    found = {}
    classifier = KNeighborsClassifier(metric="cosine", algorithm="brute", weights=weights).fit(train["features"], train["label"])
    for k in ks:
        found[k] = classifier.set_params(n_neighbors=k).predict(features)
    return found


TASK = Knn
