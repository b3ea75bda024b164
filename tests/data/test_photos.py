import numpy as np
import pytest

from jaxvision.data import open_source
from jaxvision.data.decode import Decode, decode
from jaxvision.data.photos import photographs, windows
from jaxvision.errors import ConfigError, DataError


def test_held_out_photographs_are_cut_without_overlap_and_are_none_of_the_others():
    test = open_source({"source": "photos", "size": (96, 96)}, "test", seed=0)
    expected = sum((h // 96) * (w // 96) for h, w, _ in (picture.shape for picture in photographs("test").values()))
    assert test.columns["image"].shape == (expected, 96, 96, 3) and expected == 60
    assert not photographs("train").keys() & photographs("test").keys()
    assert len(photographs("all")) == 11


def test_windows_follow_the_grid():
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    cut = windows(picture, (2, 3), (2, 3))
    assert cut.shape == (4, 2, 3, 3)
    np.testing.assert_array_equal(cut[3], picture[2:4, 3:6])


def test_what_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match="no split 'tests'"):
        photographs("tests")
    with pytest.raises(DataError, match="2000 x 2000"):
        open_source({"source": "photos", "size": (2000, 2000)}, "test", seed=0)


def test_a_window_is_cut_at_the_pictures_own_resolution():
    picture = np.random.RandomState(0).randint(0, 256, (9, 12, 3)).astype(np.uint8)
    image = Decode((4, 6), crop="window")
    np.testing.assert_array_equal(decode({"image": picture}, image, "p")["image"], picture[3:7, 3:9])
    corners, rng = set(), np.random.RandomState(0)
    for _ in range(500):
        made = decode({"image": picture}, image, "p", rng.uniform(size=40))["image"]
        places = [(y, x) for y in range(6) for x in range(7) if np.array_equal(picture[y : y + 4, x : x + 6], made)]
        corners |= set(places)
    assert corners == {(y, x) for y in range(6) for x in range(7)}


def test_a_picture_that_is_smaller_than_its_window_is_mirrored_at_the_far_edge():
    picture = np.arange(3 * 4, dtype=np.uint8).reshape(3, 4)
    made = decode({"image": picture}, Decode((5, 4), crop="window", channels=1), "p")["image"][..., 0]
    np.testing.assert_array_equal(made, picture[[0, 1, 2, 2, 1]])
