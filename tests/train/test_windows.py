import itertools
import pathlib

import numpy as np
import pytest

from jaxvision.tasks.base import Windows
from jaxvision.train.windows import importance, mask_of, score_windows, starts

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[1] / "golden" / "volume_measures.npz")


def put_together(run, volume, windows, batch):
    parts = list(score_windows(run, volume, windows, batch))
    assert [first for first, _ in parts] == np.cumsum([0, *(len(part) for _, part in parts)])[:-1].tolist()
    return np.concatenate([part for _, part in parts])


def test_weights_are_monais_up_to_a_factor():
    ours, theirs = importance(Windows((6, 10, 8))), GOLDEN["importance"] / GOLDEN["importance"].max()
    np.testing.assert_allclose(ours[ours > 2e-3], theirs[ours > 2e-3], rtol=1e-5)
    assert ours.max() == 1 and ours.min() == pytest.approx(1e-3) and (importance(Windows((2, 2), sigma=None)) == 1).all()


@pytest.mark.parametrize("length, side, overlap", [(16, 16, 0.5), (17, 16, 0.5), (100, 16, 0.25), (64, 16, 0.0)])
def test_windows_cover_everything_and_overlap_as_asked(length, side, overlap):
    found = starts(length, side, overlap)
    assert found[0] == 0 and found[-1] == length - side and all(b - a <= np.ceil(side * (1 - overlap)) for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("space", [(13, 9, 11), (4, 9, 5), (3, 3, 20)])
def test_scores_of_single_voxels_come_back_whatever_the_windows(space):
    volume = np.random.RandomState(0).normal(size=(*space, 2)).astype(np.float32)
    shapes = set()

    def run(windows):
        shapes.add(windows.shape)
        return np.stack([windows.sum(-1), windows[..., 0]], -1)

    made = put_together(run, volume, Windows((4, 4, 6)), 3)
    np.testing.assert_allclose(made, np.stack([volume.sum(-1), volume[..., 0]], -1), atol=1e-5)
    assert shapes == {(3, 4, 4, 6, 2)}
    np.testing.assert_array_equal(mask_of(run, volume, Windows((4, 4, 6)), 3), made.argmax(-1))


def test_the_middle_of_a_window_counts_more_than_its_edge():
    # Each window answers with its own number: between two middles the nearer one dominates.
    numbers = iter(range(9))
    run = lambda windows: np.stack([np.full((*windows.shape[1:-1], 1), next(numbers), np.float32) for _ in windows])
    made = put_together(run, np.zeros((12, 4, 4, 1), np.float32), Windows((8, 4, 4)), 1)[:, 2, 2, 0]
    weight = importance(Windows((8,)))
    expected = np.array([0] * 4 + [weight[i] / (weight[i] + weight[i + 4]) for i in range(4)] + [1] * 4)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_what_is_held_does_not_grow_with_the_depth():
    parts = list(score_windows(lambda w: np.repeat(w, 2, -1), np.zeros((200, 4, 4, 1), np.float32), Windows((8, 4, 4)), 2))
    assert max(len(part) for _, part in parts) == 8 and sum(len(part) for _, part in parts) == 200
