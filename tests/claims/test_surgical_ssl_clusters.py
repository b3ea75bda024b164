"""Paper 06, small: SwAV and DINO learn what views of one picture share, and nothing from views of different pictures; each collapses without its
safeguard, and rests at uniform targets where these are not sharper than the predictions.

Digits in steady light (tests/tasks/ssl/other_lights.py), 320 steps of 64 pictures, 64 prototypes; nearest neighbours by the backbone's features.
Seen, in per cent, untrained, trained, by views of different pictures: SwAV 45.6, 76.7, 25.8; DINO 45.6, 70.3, 30.6. Other seeds, untrained and
trained: SwAV 56.1 and 68.1; DINO 56.1 and 73.6, 46.9 and 69.7. Asserted is two thirds of the least of these gains, 12.
Losses end at 1.74 and 2.88, and at ln 64 = 4.16 where the views are of different pictures or the two temperatures equal (then 23.9 and 42.2 %).
Entropy of the mean code without Sinkhorn 0.000 (33.3 %), of the mean target without centring 0.12; the few prototypes left still taught DINO
something, 58.3 %.

Why not in the other lights, from which SimCLR and MoCo learn (test_surgical_ssl.py): near the state in which all projections are one, what views
share grows only where it correlates between them by more than epsilon / temperature (SwAV) or teacher / student temperature (DINO), 0.4 to 0.7 as
published (tests/tasks/ssl/test_clusters.py). The best linear map of the pixels has 0.25 in the other lights and 0.97 in steady light, the best
direction of the untrained projections 0.30 and 0.44. That is a tendency and no forecast: a network also learns better maps, and in the other lights
neither SwAV with epsilon 0.02 nor DINO with a teacher's temperature of 0.02 left ln 64 within 1,320 steps.
It is the moves by a pixel, of pictures of 8 seen in patches of 4: in other lights without them (`OTHER._replace(shift=0)`) SwAV comes from 50.8 to
79.7 % and DINO to 65.8. A second writing of both methods, in numpy after the public main_swav.py and main_dino.py with a mixer of the same shape,
rests and learns in the same lights. Its 300 steps, untrained and trained, one seed: other lights, the loss at 4.16, SwAV 27.2 and 16.7 (epsilon 0.02:
17.5; one polarity: 25.6 and 18.1), DINO 27.2 and 18.6; without the moves SwAV 45.3 and 59.2, of one polarity besides SwAV 55.0 and 85.3, DINO 75.6;
steady light SwAV 34.7 and 80.0.
Where the codes of a view are predicted from itself, SwAV ends at 35.6 % and DINO at 45.0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from jaxvision import data
from jaxvision.data.decode import fit_columns
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.train.config import complete
from jaxvision.train.setup import make_decode
from tests.claims.pending.test_surgical_ssl_shapes import pretraining
from tests.claims.test_surgical_ssl import DIGITS, MODEL
from tests.tasks.ssl.other_lights import OTHER, STEADY, as_seen

BATCH = 64
STEPS = 320
NAMES = {"swav": "SwAV", "dino": "DINO"}
SETTINGS = {"swav": {"prototypes": 64}, "dino": {"prototypes": 64, "teacher_temperature": (0.04, 0.04)}}
UNIFORM = np.log(64)


def prepared(method: str, kind: str, steps: int, **settings):
    """(tests.tasks.ssl.other_lights' `kind` of the method; {split: number of digits}; batch(split, rows), as the task takes it)."""
    config = ConfigDict({**pretraining(method).to_dict(), "model": MODEL, "data": DIGITS, "image_size": (8, 8), "batch_size": BATCH})
    config.task.update({"name": f"tests.tasks.ssl.other_lights:{kind}{NAMES[method]}", **SETTINGS[method], **settings})
    config = complete(config)
    decode = make_decode(config, 1, 1.0)
    columns = {split: fit_columns(data.open_source(config.data, split, seed=0), decode) for split in ("train", "test")}
    columns = {split: {name: np.asarray(rows[name]) for name in ("image", "label")} for split, rows in columns.items()}
    sizes = {split: len(rows["label"]) for split, rows in columns.items()}

    def batch(split, rows):
        return {name: column[rows] for name, column in columns[split].items()} | {"index": rows, "valid": np.ones(len(rows), bool)}

    return make_task(config, Problem(tuple("0123456789"), 1, sizes["train"], steps, sizes["train"] / BATCH)), sizes, batch


def trained(method: str, kind: str = "Steady", steps: int = STEPS, seed: int = 0, **settings) -> dict:
    """{"untrained", "trained": accuracy in per cent of nearest neighbours; "loss", "entropy": those of each step}."""
    task, sizes, batch = prepared(method, kind, steps, **settings)
    seen = jax.jit(lambda state, batch: task.eval_step(state, batch)[1])

    def accuracy(state):
        rows = {split: seen(state, batch(split, np.arange(size))) for split, size in sizes.items()}
        return 100 * task.summarize(jax.tree.map(np.asarray, rows), ())["knn"]

    draw, size = np.random.RandomState(seed), sizes["train"]
    order = np.concatenate([draw.permutation(size) for _ in range(steps * BATCH // size + 1)])[: steps * BATCH].reshape(steps, BATCH)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch("train", order[0]))
    state = jax.jit(lambda: task.init(jax.random.key(seed), shapes, {}))()
    untrained, step, lines = accuracy(state), jax.jit(task.train_step, donate_argnums=0), []
    for rows in order:
        state, metrics = step(state, batch("train", rows))
        lines.append({name: metrics[name] for name in ("loss", "entropy")})
    lines = {name: np.asarray(jnp.stack([line[name] for line in lines])) for name in lines[0]}
    return {"untrained": untrained, "trained": accuracy(state), **lines}


def correlation(differs) -> float:
    """Of one linear map of the pixels between two sights of a digit, the largest over maps."""
    pixels = jnp.asarray(load_digits().data / 16, jnp.float32)
    one, other = (np.asarray(as_seen(jax.random.key(view), pixels, differs), np.float64) for view in range(2))
    one, other = one - one.mean(0), other - other.mean(0)
    between, within = (one.T @ other + other.T @ one) / 2, (one.T @ one + other.T @ other) / 2
    slight = 1e-4 * np.trace(within) / len(within) * np.eye(len(within))
    return float(np.linalg.eigvals(np.linalg.solve(within + slight, between)).real.max())


def summary(found: dict) -> dict:
    last = {name: round(float(found[name][-10:].mean()), 3) for name in ("loss", "entropy")}
    return {"untrained": round(found["untrained"], 1), "trained": round(found["trained"], 1), **last}


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", NAMES)
def test_views_of_one_picture_teach_the_digit(method):
    found = summary(trained(method))
    print(method, found)
    assert found["trained"] > found["untrained"] + 8
    assert found["loss"] < UNIFORM - 1 and found["entropy"] > 0.8


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", NAMES)
def test_views_of_different_pictures_teach_nothing(method):
    found = summary(trained(method, "MixedSteady"))
    print(method, found)
    assert found["trained"] < found["untrained"]
    assert found["loss"] > UNIFORM - 0.02


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method, without", [("swav", {"iterations": 0}), ("dino", {"center_momentum": None})])
def test_without_its_safeguard_few_prototypes_take_all(method, without):
    found = summary(trained(method, **without))
    print(method, without, found)
    assert found["entropy"] < 0.3


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method, blunt", [("swav", {"temperature": 0.05}), ("dino", {"teacher_temperature": (0.1, 0.1)})])
def test_targets_no_sharper_than_predictions_become_uniform(method, blunt):
    found = summary(trained(method, **blunt))
    print(method, blunt, found)
    assert UNIFORM - 0.02 < found["loss"] < UNIFORM + 0.02
    assert found["trained"] < found["untrained"]


@pytest.mark.claim
@pytest.mark.timeout(60)
def test_steady_light_leaves_pixels_correlated_above_the_ratio_of_temperatures_and_other_lights_do_not():
    found = {"other": correlation(OTHER), "steady": correlation(STEADY)}
    print({name: round(value, 2) for name, value in found.items()})
    assert found["other"] < 0.4 and found["steady"] > 0.7
