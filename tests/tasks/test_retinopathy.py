import numpy as np
import pytest

from jaxvision import fit
from jaxvision.errors import DataError
from jaxvision.models.registry import count_parameters
from jaxvision.tasks import make_task, metrics
from jaxvision.tasks.base import Problem
from jaxvision.tasks.retinopathy import evaluation
from tests.runs import tiny

SETTINGS = {"referable": 2, "grades": 5, "resamples": 50, "reject": 0.2}


def cohort(count=400):
    """Probabilities that rise with the grade, two photographs a patient."""
    random = np.random.RandomState(0)
    grade = np.repeat(random.randint(0, 5, count // 2), 2)
    probability = 1 / (1 + np.exp(-(grade - 1.5 + random.normal(size=count))))
    return probability, grade, np.repeat(np.arange(count // 2), 2)


def test_the_protocol_s_figures_agree_with_their_definitions():
    probability, grade, patient = cohort()
    found = evaluation(probability, grade, patient, **SETTINGS)
    assert found["auc"] == pytest.approx(metrics.auc(grade >= 2, probability))
    assert found["auc_low"] < found["auc"] < found["auc_high"]
    either = probability.reshape(-1, 2).max(1)
    assert found["auc_patient"] == pytest.approx(metrics.auc(grade[::2] >= 2, either))
    assert found["auc_grade2"] < found["auc_grade3"] < found["auc_grade4"]
    chosen = (grade < 2) | (grade == 3)
    assert found["auc_grade3"] == pytest.approx(metrics.auc(grade[chosen] >= 2, probability[chosen]))
    assert found["auc_certain"] > found["auc"]


def test_rejecting_by_a_constant_uncertainty_changes_nothing():
    _, grade, patient = cohort()
    found = evaluation(np.full(len(grade), 0.5), grade, patient, **SETTINGS)
    assert found["auc_certain"] == found["auc"] == 0.5 and found["entropy"] == pytest.approx(np.log(2))


def test_test_data_of_one_answer_are_refused():
    with pytest.raises(DataError, match="with and without referable"):
        evaluation(np.ones(4), np.zeros(4, int), np.arange(4), **SETTINGS)
    with pytest.raises(DataError, match=r"2 grades; task.referable=2"):
        make_task(tiny(task={"name": "retinopathy"}), Problem(("healthy", "ill"), 1, 64, 8, 4.0))


def test_the_published_network_has_one_logit():
    assert count_parameters("resnet18", num_classes=1) == 11_177_025 and count_parameters("resnet34", num_classes=1) == 21_285_185


def test_a_tiny_run_trains_with_the_policy_and_reports_the_protocol(tmp_path):
    data = {"source": "fundus", "train": "a:32", "test": "b:40", "size": (32, 32)}
    model = {"name": "resnet18", "widths": (8, 8), "depths": (1, 1)}
    task = {"name": "retinopathy", "policy": ("flip", "gamma"), "resamples": 20}
    changes = {"image_size": (32, 32), "eval_batch_size": 20, "steps": 3, "augment": {}, "checkpoint__metric": "test/auc"}
    config = tiny(data=data, model=model, task=task, **changes)
    found = fit(config, tmp_path, report=lambda line: None)
    assert {"test/auc", "test/auc_low", "test/auc_patient", "test/kappa", "test/auc_grade4", "test/raw/accuracy"} <= found.keys()
