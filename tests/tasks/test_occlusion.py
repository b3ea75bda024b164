import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.train.setup import set_up
from tests.runs import tiny


class Brightest:
    """Stands for a network: the class is where the image is brightest on average, one column a class."""

    def apply(self, variables, image, train):
        return image.mean((1, 3))


def task_of(**settings):
    setup = set_up(tiny(task={"name": "occlusion", "grid": 4, **settings}, optim__ema=None))
    return setup.task


def batch_of(rows: int = 24):
    label = np.arange(rows) % 8
    image = np.where(np.arange(8)[None] == label[:, None], 255, 0).astype(np.uint8)[:, None, :, None].repeat(8, 1)
    return {"image": image, "label": label.astype(np.int32), "index": np.arange(rows, dtype=np.int32), "valid": np.ones(rows, bool)}


def test_an_evaluation_reports_a_curve_for_each_way_of_hiding():
    task = task_of(shares=(0.125, 1.0), tiles=(2,))
    task.model = Brightest()
    batch = task.prepare(batch_of(), jax.random.key(0), train=False)
    batch["target"] = batch["target"][:, :8]
    sums, rows = jax.jit(lambda batch: task.evaluate({}, None, batch))(batch)
    reached = {name: float(total / count) for name, (total, count) in sums.items()}
    assert reached["accuracy"] == 1 and len(rows["label"]) == 24
    assert set(reached) == {
        "loss", "accuracy", "permuted_2", "superimposed",
        *(f"{way}_{share}" for way in ("replaced", "scattered", "dropped") for share in ("12.5", "100")),
    }  # fmt: skip
    assert reached["replaced_12.5"] > 0.9 and reached["replaced_100"] == 0  # all of it is another class's image
    assert reached["scattered_12.5"] > 0.9 and reached["permuted_2"] < 0.9


def test_the_benchmark_is_the_same_for_an_example_wherever_it_stands_in_the_run():
    task = task_of(shares=(0.25,), tiles=(4,))
    batch = {**batch_of(), "target": jax.nn.one_hot(np.arange(24) % 8, 10), "image": jnp.asarray(batch_of()["image"], jnp.float32)}
    order, occluded = np.random.RandomState(0).permutation(24), jax.jit(task.occluded)
    shuffled = {key: value[order] for key, value in batch.items()}
    for name in ("dropped_25", "permuted_4"):
        np.testing.assert_array_equal(occluded(batch)[name][order], occluded(shuffled)[name])


def test_settings_that_make_no_sense_are_one_line():
    with pytest.raises(ConfigError, match="grid"):
        task_of(grid=0)
    with pytest.raises(ConfigError, match="shares"):
        task_of(share=0.5)
