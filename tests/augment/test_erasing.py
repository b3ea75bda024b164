import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.erasing import random_boxes, random_erasing
from jaxvision.augment.rows import row_keys


def test_boxes_have_timm_s_areas_aspects_and_places():
    height, width = 100, 120
    box = jax.jit(lambda k: random_boxes(row_keys(k, jnp.arange(4000)), height, width, probability=0.25))(jax.random.key(0))
    top, bottom, left, right = (np.asarray(side) for side in box)
    tall, wide = bottom - top, right - left
    erased = tall * wide > 0
    assert abs(erased.mean() - 0.25) < 0.03
    tall, wide, top, left = tall[erased], wide[erased], top[erased], left[erased]
    area, ratio = tall * wide / (height * width), np.log(tall / wide)
    assert 0.018 < area.min() < 0.03 and 0.31 < area.max() < 0.345 and abs(area.mean() - 0.175) < 0.015
    assert np.abs(ratio).max() < np.log(1 / 0.3) + 0.06 and abs(ratio.std() - 2 * np.log(1 / 0.3) / 12**0.5) < 0.06
    assert top.min() >= 0 and (top + tall).max() == height and left.min() >= 0 and (left + wide).max() == width
    assert abs((top / (height - tall)).mean() - 0.5) < 0.04


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_only_the_box_is_erased_and_by_what_the_mode_says(mode):
    image = np.full((16, 24, 24, 3), 9.0, np.float32)
    erase = jax.jit(lambda k, x, row: random_erasing(k, x, row, probability=1.0, mode=mode))
    ours = np.asarray(erase(jax.random.key(0), image, jnp.arange(16)))
    for one in ours:
        inside = (one != 9).all(-1)
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert inside.sum() == len(rows) * len(columns) > 0
        colours = len(np.unique(one[inside], axis=0))
        assert colours == (inside.sum() if mode == "pixel" else 1)
    values = ours[ours != 9]
    if mode == "const":
        assert np.all(values == 0)
    if mode == "pixel":
        assert abs(values.mean()) < 0.05 and abs(values.std() - 1) < 0.05
