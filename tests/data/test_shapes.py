import numpy as np
import pytest

import jaxvision.data as data
from jaxvision.data.shapes import CLASSES, ShapesSource, open_shapes, paint
from jaxvision.errors import ConfigError

SIZE, MOST = (40, 56), 4


def test_a_picture_is_a_function_of_its_seed_and_number():
    first, again, next_one, other_seed, other_part = (paint(*key, SIZE, MOST, part) for *key, part in
                                                      ((1, 5, 0), (1, 5, 0), (1, 6, 0), (2, 5, 0), (1, 5, 1)))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    for other in (next_one, other_seed, other_part):
        assert not np.array_equal(first["image"], other["image"])


def test_boxes_are_the_extents_of_the_mask():
    seen, alone = set(), 0
    for number in range(80):
        picture = paint(0, number, SIZE, MOST)
        mask, valid = picture["mask"], picture["box_valid"]
        boxes, labels = picture["boxes"][valid].astype(int), picture["box_label"][valid]
        assert picture["image"].shape == (*SIZE, 3) and picture["image"].dtype == np.uint8 and mask.shape == SIZE
        assert 1 <= valid.sum() <= MOST and not picture["boxes"][~valid].any()
        seen |= set(labels)
        # All shapes of one class together: their mask spans exactly what their boxes span.
        for kind in set(labels):
            down, across = np.nonzero(mask == kind + 1)
            of = boxes[labels == kind]
            extent = (down.min(), across.min(), down.max() + 1, across.max() + 1)
            assert extent == (*of[:, :2].min(axis=0), *of[:, 2:].max(axis=0))
            alone += len(of) == 1
        assert set(np.unique(mask)) == {0, *(labels + 1)}
        areas = {kind: (mask == kind + 1).sum() for kind in set(labels)}
        if len(labels) == len(areas):
            assert picture["label"] == max(areas, key=areas.get)
    assert seen == set(range(len(CLASSES))) and alone > 60


def test_a_shape_stands_out_from_what_surrounds_it():
    contrast = []
    for number in range(20):
        picture = paint(3, number, (48, 48), 1)
        inside = picture["mask"] > 0
        means = [picture["image"][where].astype(float).mean(axis=0) for where in (inside, ~inside)]
        contrast.append(np.abs(means[0] - means[1]).sum())
    assert min(contrast) > 40


def test_pictures_in_memory_equal_those_painted_on_demand():
    held = open_shapes("test", 6, SIZE, MOST, seed=4)
    painted = ShapesSource(6, SIZE, MOST, 4, 1)
    for i in range(6):
        for key, value in painted.record(i).items():
            np.testing.assert_array_equal(held.columns[key][i], value)
    assert held.columns is not None and painted.columns is None


def test_large_sets_are_not_held_in_memory():
    assert open_shapes("train", 10_000, (224, 224), MOST, seed=0).columns is None


def test_training_and_test_pictures_differ():
    config = {"source": "shapes", "count": 16, "size": (24, 24)}
    train, test = (data.open_source(config, split, seed=0) for split in ("train", "test"))
    assert (len(train), len(test)) == (16, 4)
    assert not {bytes(image) for image in train.columns["image"]} & {bytes(image) for image in test.columns["image"]}


def test_impossible_pictures_are_refused():
    with pytest.raises(ConfigError, match="at least 1 picture, 16x16 pixels and 1 shape"):
        open_shapes("train", 3, (8, 8), 2, 0)
