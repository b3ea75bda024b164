import importlib.util

import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.tasks.detect.average_precision import check_coco, coco, precision_area, voc


def rows(found, truth, ignore=None):
    """Rows of pictures from [(box, class, score), …] and [(box, class), …] a picture."""
    most, count = max(map(len, truth)), max(map(len, found))
    table = {name: np.zeros((len(truth), most)) for name in ("truth_label", "truth_area")}
    table |= {"truth": np.zeros((len(truth), most, 4), np.float32), "truth_valid": np.zeros((len(truth), most), bool)}
    table |= {"truth_ignore": np.zeros((len(truth), most), bool), "boxes": np.zeros((len(truth), count, 4), np.float32)}
    table |= {"box_label": np.zeros((len(truth), count), int), "box_score": np.zeros((len(truth), count))}
    for i, objects in enumerate(truth):
        for n, (box, label) in enumerate(objects):
            table["truth"][i, n], table["truth_label"][i, n], table["truth_valid"][i, n] = box, label, True
            table["truth_area"][i, n] = (box[2] - box[0]) * (box[3] - box[1])
    for i, boxes in enumerate(found):
        for n, (box, label, score) in enumerate(boxes):
            table["boxes"][i, n], table["box_label"][i, n], table["box_score"][i, n] = box, label, score
    for i, n in ignore or ():
        table["truth_ignore"][i, n] = True
    return table


A, B, C = (0, 0, 20, 20), (30, 30, 70, 60), (5, 50, 15, 90)
TRUTH = [[(A, 0), (B, 1)], [(C, 0)]]
RIGHT = [[(A, 0, 0.9), (B, 1, 0.8)], [(C, 0, 0.7)]]


def test_right_boxes_have_precision_one_and_none_has_zero():
    found = coco(rows(RIGHT, TRUTH), 2)
    assert found == pytest.approx(dict.fromkeys(("ap", "ap50", "ap75", "ap_small", "ap_medium"), 1.0))
    assert set(voc(rows(RIGHT, TRUTH), 2).values()) == {1.0}
    wrong = [[(B, 0, 0.9), (A, 1, 0.8)], [(A, 0, 0.7)]]
    assert coco(rows(wrong, TRUTH), 2)["ap50"] == 0 == voc(rows(wrong, TRUTH), 2)["voc_ap50"]


def test_precision_is_counted_by_hand():
    """Class 0: a miss at 0.95, then a hit, a second box on the same object, and a hit: precisions 1/2 and 2/4 at recalls 1/2 and 1."""
    found = [[(B, 0, 0.95), (A, 0, 0.9), ((0, 0, 20, 19), 0, 0.8), (B, 1, 0.5)], [(C, 0, 0.1)]]
    figures = voc(rows(found, TRUTH), 2)
    assert figures["voc_ap50"] == pytest.approx((0.5 + 1) / 2) and figures["voc07_ap50"] == pytest.approx((0.5 + 1) / 2)
    assert coco(rows(found, TRUTH), 2)["ap50"] == pytest.approx((0.5 + 1) / 2, abs=0.01)
    assert precision_area(np.array([1, 0, 1]), 3, False) == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert precision_area(np.array([1, 0, 1]), 3, True) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_overlaps_decide_at_which_thresholds_a_box_counts():
    shifted = [[((0, 4, 20, 24), 0, 0.9), (B, 1, 0.8)], [(C, 0, 0.7)]]  # intersection over union 2/3: below 0.7
    figures = coco(rows(shifted, TRUTH), 2), voc(rows(shifted, TRUTH), 2)
    assert figures[0]["ap50"] == pytest.approx(1) and figures[1]["voc_ap50"] == 1
    assert figures[0]["ap75"] < 0.8 and figures[1]["voc_ap75"] == pytest.approx((0.25 + 1) / 2)


def test_what_is_ignored_counts_neither_way():
    ignored = [(0, 0)]
    assert voc(rows(RIGHT, TRUTH, ignored), 2)["voc_ap"] == 1 == pytest.approx(coco(rows(RIGHT, TRUTH, ignored), 2)["ap"])
    without = [[(B, 1, 0.8)], [(C, 0, 0.7)]]
    assert voc(rows(without, TRUTH, ignored), 2)["voc_ap"] == 1


def test_without_pycocotools_there_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxvision\[detect\]', or set task.metrics=\('voc',\)"):
        check_coco()
