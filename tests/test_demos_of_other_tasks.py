"""Demos of everything but plain classification."""

import pytest

from tests.demos import OTHERS, two_steps


@pytest.mark.parametrize("name", OTHERS)
def test_two_steps_of_the_demo_train_evaluate_and_write(name, tmp_path):
    two_steps(name, tmp_path)
