"""Probes leave the backbone alone: to the bit, statistics included."""

import re

import jax
import numpy as np
import pytest

from jaxvision import fit
from jaxvision.errors import ConfigError
from jaxvision.models.rules import HEAD
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.tasks.knn import vote
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.modes import evaluate
from jaxvision.trees import named_leaves
from tests.runs import tiny

QUIET = {"report": lambda line: None}
RESNET = {"model": {"name": "resnet20_cifar", "depths": (1, 1), "widths": (8, 16)}, "data__mean": (0.5,), "data__std": (0.5,)}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A small convolutional network after 200 steps."""
    workdir = tmp_path_factory.mktemp("pretrained")
    fit(tiny(**RESNET, steps=200, optim__ema=None, optim__lr=1e-2), workdir, **QUIET)
    return workdir


def test_a_linear_probe_moves_the_head_alone_and_keeps_slots_for_nothing_else(pretrained, tmp_path):
    start = {"task__name": "probe", "init_from": str(pretrained), "reinit_head": True}
    changes = {**start, "steps": 200, "optim__ema": None, "optim__lr": 0.1, "log_every": 50}
    metrics = fit(tiny(**RESNET, **changes), tmp_path, **QUIET)
    before, after = (named_leaves(read_checkpoint_variables(folder)[0]) for folder in (pretrained, tmp_path))
    for name in before:
        if not re.fullmatch(HEAD, name.split("/", 1)[1]):
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert np.abs(after["params/fc/kernel"] - before["params/fc/kernel"]).max() > 0.01
    state, _ = Checkpoints(tmp_path / "checkpoints", read_only=True).restore(None)
    slots = [leaf for leaf in jax.tree.leaves(state["opt_state"]) if np.ndim(leaf)]
    assert sorted(np.shape(leaf) for leaf in slots) == [(10,), (10,), (16, 10), (16, 10)]
    assert metrics["test/accuracy"] > 0.5


def test_a_probe_needs_a_head_by_name():
    task = make_task(tiny(task__name="probe"), Problem(tuple("ab"), 1, 64, 8, 4.0))
    task.model = type("Headless", (), {"init": lambda self, key, image, train: {"params": {"trunk": {"kernel": image}}}})()
    with pytest.raises(ConfigError, match="no head that a probe could train; its last parameter is trunk/kernel"):
        task.init_variables(jax.random.key(0), {"image": jax.ShapeDtypeStruct((4, 8, 8, 1), np.uint8)})


def test_the_nearest_neighbour_probe_trains_nothing_and_beats_chance_by_far(pretrained, tmp_path):
    changes = {"task": {"name": "knn", "k": (20, 5)}, "init_from": str(pretrained), "reinit_head": True, "steps": 1}
    metrics = fit(tiny(**RESNET, **changes), tmp_path, **QUIET)
    before, after = (named_leaves(read_checkpoint_variables(folder)[0]) for folder in (pretrained, tmp_path))
    for name in before:
        if not re.fullmatch(HEAD, name.split("/", 1)[1]):
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert metrics["test/accuracy"] == metrics["test/accuracy_k20"] > 0.6
    again = evaluate(None, tmp_path, **QUIET)
    assert again["test/accuracy_k5"] == metrics["test/accuracy_k5"]


def test_votes_are_weighted_by_the_exponential_of_similarity():
    # Two neighbours of class 0 at similarity 0.6 against one of class 1 at 1: at a low temperature the near one wins, at a high one the many.
    train = {"features": np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [-1, 0]], np.float32), "label": np.array([1, 0, 0, 1])}
    query = np.array([[1, 0]], np.float32)
    assert vote(train, query, (3,), 0.1)[3][0] == 1
    assert vote(train, query, (3,), 1.0)[3][0] == 0
    assert vote(train, query, (1, 3), 1.0)[1][0] == 1


@pytest.mark.parametrize(
    "task, message",
    [
        ({"name": "knn", "k": 2000}, "from 1 to the 1437 training examples"),
        ({"name": "knn", "temperature": 0}, "must be above 0"),
        ({"name": "knn", "neighbours": 3}, "task.neighbours is not a key of the task 'knn'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(task, message):
    with pytest.raises(ConfigError, match=message):
        make_task(tiny(task=task), Problem(tuple("ab"), 1, 1437, 1, 4.0))
