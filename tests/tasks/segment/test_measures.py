import pathlib

import numpy as np
import pytest

from jaxvision.tasks.segment.measures import dice, mean_of_classes, measure_classes
from jaxvision.tasks.segment.pictures import middle_slices, overlay

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[2] / "golden" / "volume_measures.npz")
SHAPE, SPACING = (12, 20, 24), (2.0, 1.0, 0.75)


@pytest.mark.parametrize("case", ["near", "apart", "noisy"])
def test_figures_are_those_of_monai_and_medpy(case):
    ours, truth = np.unpackbits(GOLDEN[f"{case}/masks"]).reshape(2, *SHAPE)
    made = measure_classes(ours, truth, 1, SPACING, ("dice", "hd95", "hd95_pooled", "asd"))
    np.testing.assert_allclose([made[name][0] for name in ("dice", "hd95", "hd95_pooled", "asd")], GOLDEN[f"{case}/figures"], rtol=1e-5)


def test_distances_are_in_millimetres():
    ours, truth = np.zeros((2, 9, 9, 9), np.uint8)
    ours[2, 4, 4], truth[5, 4, 4] = 1, 1
    assert measure_classes(ours, truth, 1, (2.5, 1, 1), ("hd95", "asd")) == {"hd95": [7.5], "asd": [7.5]}


def test_missing_classes_have_no_figure_and_missed_ones_the_worst():
    truth, ours = np.zeros((2, 3, 4, 12), np.uint8)
    truth[0, 0, 0], ours[0, 0, 1] = 1, 2
    made = measure_classes(ours, truth, 2, (1, 1, 1), ("dice", "hd95"))
    assert made["dice"][0] == 0 and made["hd95"][0] == 13 and np.isnan(made["dice"][1]) and np.isnan(made["hd95"][1])
    assert np.isnan(dice(ours > 0, np.zeros_like(truth, bool)))
    np.testing.assert_allclose(mean_of_classes(np.array([[1, np.nan], [0.5, np.nan]])), [0.75, np.nan])


def test_overlays_are_upright_with_square_pixels():
    volume, mask = np.zeros((4, 6, 8), np.float32), np.zeros((4, 6, 8), np.uint8)
    volume[:, 5], mask[3, 5, 7] = 1.0, 1
    axial, coronal, sagittal = middle_slices(volume, mask, (2.0, 1.0, 1.0))
    assert axial.shape == (6, 8, 3) and coronal.shape == (8, 8, 3) and sagittal.shape == (8, 6, 3)
    # The front is up, the right side on the left; class 1 is red.
    assert axial[0, 0, 0] > axial[0, 0, 1] and (axial[0, 1:] == 255).all() and (axial[1:] == 0).all()
    assert (coronal[:2, 0, 1] < coronal[:2, 0, 0]).all() and (overlay(volume[0], np.zeros((6, 8), int))[5] == 255).all()
