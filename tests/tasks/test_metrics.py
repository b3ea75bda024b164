"""Checked against definitions: ranks counted by hand, kappa by its formula, entropy at its extremes."""

import math
import types

import numpy as np
import pytest

from jaxvision.errors import ConfigError, DataError
from jaxvision.tasks import make_task, metrics
from jaxvision.tasks.base import Problem
from tests.runs import tiny


def pairs_won(label, score):
    """The share of (positive, negative) pairs that are in order, ties half: what the area is."""
    gap = score[label][:, None] - score[~label][None]
    return ((gap > 0) + 0.5 * (gap == 0)).mean()


def test_auc_counts_ordered_pairs_and_ties_half():
    random = np.random.RandomState(0)
    label, score = random.rand(60) < 0.4, random.randint(0, 8, 60) / 8
    assert metrics.auc(label, score) == pytest.approx(pairs_won(label, score))
    assert metrics.auc(label, np.ones(60)) == 0.5
    assert math.isnan(metrics.auc(np.ones(4, bool), np.arange(4.0)))


def test_macro_auc_leaves_classes_without_both_answers_out():
    random = np.random.RandomState(1)
    target, scores = random.rand(40, 3) < 0.5, random.rand(40, 3)
    target[:, 1] = False
    expected = np.mean([pairs_won(target[:, k], scores[:, k]) for k in (0, 2)])
    assert metrics.macro_auc(target, scores) == pytest.approx(expected)
    with pytest.raises(DataError, match="with and without a class"):
        metrics.macro_auc(np.zeros((4, 2), bool), np.zeros((4, 2)))


def test_quadratic_kappa_is_one_minus_observed_over_expected_disagreement():
    random = np.random.RandomState(2)
    label, predicted = random.randint(0, 5, 200), random.randint(0, 5, 200)
    square = (np.arange(5)[:, None] - np.arange(5)) ** 2
    seen = np.zeros((5, 5))
    np.add.at(seen, (label, predicted), 1)
    chance = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    assert metrics.quadratic_kappa(label, predicted, 5) == pytest.approx(1 - (square * seen).sum() / (square * chance).sum())
    assert metrics.quadratic_kappa(label, label, 5) == 1 and metrics.quadratic_kappa(0 * label, 0 * label, 5) == 0


def test_the_bootstrap_is_seeded_covers_the_mean_and_narrows():
    values = np.random.RandomState(3).normal(size=400)
    low, high = metrics.bootstrap(np.mean, [values], resamples=300)
    assert (low, high) == metrics.bootstrap(np.mean, [values], resamples=300)
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_sensitivity_is_read_at_the_asked_specificity():
    label, score = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool), np.array([0.1, 0.2, 0.3, 0.7, 0.25, 0.6, 0.8, 0.9])
    assert metrics.sensitivity_at(label, score, 1.0) == 0.5 and metrics.sensitivity_at(label, score, 0.75) == 0.75


def test_entropy_is_symmetric_and_at_most_log_two():
    p = np.linspace(0, 1, 11)
    np.testing.assert_allclose(metrics.entropy(p), metrics.entropy(1 - p), atol=1e-15)
    assert metrics.entropy(p).argmax() == 5 and metrics.entropy(p)[5] == pytest.approx(math.log(2)) and metrics.entropy(p)[0] == 0


def task_of(**changes):
    classes = tuple("abcde")
    return make_task(tiny(**changes), Problem(classes, 1, 64, 8, 4.0)), classes


def test_a_classifier_reports_what_its_config_asks_for_and_nothing_else():
    random = np.random.RandomState(4)
    scores = random.dirichlet(np.ones(5), 50).astype(np.float32)
    rows = {"test": {"label": random.randint(0, 5, 50), "predicted": scores.argmax(1), "scores": scores}}
    task, classes = task_of(task__metrics=("auc", "kappa"))
    found = task.summarize(rows, classes)
    areas = [pairs_won(rows["test"]["label"] == k, scores[:, k]) for k in range(5)]
    assert found["auc"] == pytest.approx(np.mean(areas))
    assert found["kappa"] == pytest.approx(metrics.quadratic_kappa(rows["test"]["label"], scores.argmax(1), 5))
    assert set(task_of()[0].summarize(rows, classes)) == {"confusion"}
    with pytest.raises(ConfigError, match="'acu' is unknown; did you mean 'auc'"):
        task_of(task__metrics=("acu",))


def test_labels_that_do_not_exclude_each_other_are_scored_by_sigmoids_class_by_class():
    task, _ = task_of(task__loss="sigmoid", task__metrics=("auc",))
    logits, label = np.random.RandomState(5).normal(size=(6, 5)).astype(np.float32), np.random.RandomState(6).rand(6, 5) < 0.5
    task.model = types.SimpleNamespace(apply=lambda variables, image, train: logits)
    _, rows = task.evaluate({}, None, {"image": None, "label": label, "target": label.astype(np.float32), "weight": np.ones(6, np.float32)})
    np.testing.assert_allclose(rows["scores"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    expected = metrics.macro_auc(label, logits)
    assert task.summarize({"test": {name: np.asarray(row) for name, row in rows.items()}}, tuple("abcde"))["auc"] == pytest.approx(expected)


def test_average_precision_is_the_mean_over_the_classes_that_occur():
    target = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], bool)
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.2, 0.1], [0.7, 0.3, 0.3]])
    # Class 0: precision 1 at recall 1/2, 2/3 at recall 1. Class 1: 1/2 at recall 1. Class 2 never occurs.
    assert metrics.mean_average_precision(target, scores) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    with pytest.raises(DataError, match="none of any class"):
        metrics.mean_average_precision(np.zeros((3, 2), bool), scores[:, :2])
