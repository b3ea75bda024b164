"""Demos that train a classifier."""

import pytest

from tests.demos import CLASSIFIERS, two_steps


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_two_steps_of_the_demo_train_evaluate_and_write(name, tmp_path):
    two_steps(name, tmp_path)
