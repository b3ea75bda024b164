"""Paper 06, small: on pictures of shapes each of the four methods learns features of the shape from views of one picture, and none from unrelated
views.

Seen once each: the 192 steps of the demo are too few for SimCLR (24.6 % of 6 classes; unrelated views 19.7, an untrained network 22.5). On pictures
with plain backgrounds SimCLR reaches 28.9 % and would need many more steps. On digits all four learn: SimCLR and MoCo under other lights
(tests/claims/test_surgical_ssl.py), SwAV and DINO in steady light (tests/claims/test_surgical_ssl_clusters.py, which also has their collapse without
Sinkhorn and centring). Under other lights these two do not, in 450 to 1,800 steps of 64 pictures: their losses come to rest at the logarithm of the
number of prototypes within 220 steps, accuracies 20.8 to 31.4 % beside 30.3 untrained; neither rates of 5e-4 to 2e-3, epsilon 0.02 and 0.03, a
teacher's temperature of 0.02, pictures of one polarity, a batch norm at the end of the head nor prototypes that stand still changed that. It is no
fault of the two losses: a second writing after the public code rests there too, and leaves once the pictures do not move by a pixel."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import jaxvision
from jaxvision import data
from jaxvision.data.decode import fit_columns
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.train.config import complete, load_config, with_changes
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.setup import make_decode
from jaxvision.train.stages import stage_configs
from jaxvision.train.writers import read_metrics

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "surgical_ssl.py"
METHODS = {"moco": "MoCo", "simclr": "SimCLR", "swav": "SwAV", "dino": "DINO"}
LABELS = 1000


def pretraining(method, **changes):
    """The demo's first stage, for a folder of its own."""
    config = dict(stage_configs(load_config(f"{CONFIG}:demo,{method}")))["pretrain"]
    quiet = {"mesh.data": 1, "writers": ("jsonl",), "compilation_cache": "", "eval_every": 10**6, "checkpoint.every": 10**6, "log_every": 8}
    return complete(with_changes(config, {**quiet, **{key.replace("__", "."): value for key, value in changes.items()}}))


def probe(config, variables):
    """Accuracy in per cent of a logistic regression on standardized features, fitted to LABELS pictures."""
    decode = make_decode(config, 1, 1.0)
    sources = {split: fit_columns(data.open_source(config.data, split, seed=0), decode) for split in ("train", "test")}
    task = make_task(config, Problem(("a",) * 6, 1, len(sources["train"]["image"]), 1, 1.0))
    features = jax.jit(lambda image: task.model.apply(variables, task.augment.normalize(image), method="features"))
    train, test = (np.concatenate([np.asarray(features(jnp.asarray(part))) for part in np.array_split(x, 8)])
                   for x in (sources["train"]["image"][: LABELS // 8 * 8], sources["test"]["image"]))
    scaler = StandardScaler().fit(train)
    fitted = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(train), sources["train"]["label"][: len(train)])
    return 100 * fitted.score(scaler.transform(test), sources["test"]["label"])


def pretrained(method, folder, **changes):
    """(accuracy of the probe, the metrics of the last evaluation, the lines of training)."""
    config = pretraining(method, **changes)
    metrics = jaxvision.fit(config, folder, report=lambda line: None)
    variables = jax.tree.map(jnp.asarray, read_checkpoint_variables(folder, "last")[0])
    lines = [line for line in read_metrics(folder) if "train/loss" in line]
    return probe(config, variables), metrics, lines


@pytest.fixture(scope="module")
def untrained():
    config = pretraining("simclr")
    task = make_task(config, Problem(("a",) * 6, 1, 2048, 1, 1.0))
    shapes = {"image": jax.ShapeDtypeStruct((2, 32, 32, 1), np.uint8)}
    return probe(config, jax.jit(lambda: dict(task.init_variables(jax.random.key(0), shapes)))())


@pytest.mark.pending
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_views_of_one_picture_teach_shapes(method, untrained, tmp_path):
    accuracy, metrics, lines = pretrained(method, tmp_path / "paired")
    print(method, {"untrained": untrained, "pre-trained": accuracy, **metrics, "seconds": lines[-1]["seconds"]})
    assert accuracy > untrained + 10
    assert metrics["test/spread"] > 0.5


@pytest.mark.pending
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_views_of_different_pictures_teach_nothing(method, untrained, tmp_path):
    accuracy, metrics, _ = pretrained(method, tmp_path / "mixed", task__name=f"tests.tasks.ssl.mismatched:{METHODS[method]}")
    print(method, {"untrained": untrained, "mismatched": accuracy, **metrics})
    assert accuracy < untrained + 5
