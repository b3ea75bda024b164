import pathlib

import pytest

from jaxvision.errors import ConfigError
from jaxvision.search import make_search
from jaxvision.train.config import load_config
from tests.runs import tiny

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "dr_resnet.py"


def walk(auc_of, **settings):
    """Policies of all children, and the one found, where a child reaches auc_of(policy)."""
    search = {"name": "policy", "candidates": ("flip", "color", "blur"), **settings}
    propose, history, tried = make_search(tiny(task={"name": "retinopathy", "policy": ()}, search=search)), [], []
    while (child := propose(history)) is not None:
        tried.append(tuple(child.task.policy))
        history.append({"metrics": {"test/auc": auc_of(tried[-1])}})
    return tried, tuple(propose.found(history).task.policy)


def test_a_transform_is_kept_where_the_metric_rises_and_left_out_otherwise():
    auc = lambda policy: 0.8 + 0.05 * ("flip" in policy) - 0.1 * ("color" in policy) + 0.02 * ("blur" in policy)
    assert walk(auc) == ([(), ("flip",), ("flip", "color"), ("flip", "blur")], ("flip", "blur"))
    assert walk(auc, margin=0.03)[1] == ("flip",)


def test_the_published_config_starts_from_no_augmentation_and_has_another_camera_to_validate_with():
    config = load_config(f"{CONFIG}:demo,calibration")
    child = make_search(config)([])
    assert child.task.policy == () and child.data.train == "a:800" and child.data.test == "b:400" and config.search.name == "policy"


def test_a_task_without_a_policy_cannot_be_calibrated():
    with pytest.raises(ConfigError, match=r"needs a task with the key task.policy; 'classify' has none"):
        make_search(tiny(search={"name": "policy"}))
