import numpy as np
import pytest

import jaxvision.data as data
from jaxvision.data.source import ArraySource, Source, stratified_split
from jaxvision.errors import ConfigError, DataError


def test_a_split_by_seed_is_disjoint_complete_and_stratified():
    label = np.repeat([0, 1, 2, 7], [10, 35, 5, 50])
    train, test = stratified_split(label, 20, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(100))
    counts = [int((label[test] == name).sum()) for name in (0, 1, 2, 7)]
    assert counts == [2, 7, 1, 10]
    again = stratified_split(label, 20, seed=3)[1]
    other = stratified_split(label, 20, seed=4)[1]
    assert np.array_equal(test, again) and not np.array_equal(test, other)


def test_a_split_hands_out_exactly_the_count_asked_for():
    label = np.repeat(np.arange(7), [3, 3, 3, 3, 3, 3, 4])
    for count in range(1, 22):
        train, test = stratified_split(label, count, seed=0)
        assert len(test) == count and len(train) == 22 - count
        share = np.bincount(label[test], minlength=7) - np.bincount(label) * count / 22
        assert np.abs(share).max() < 1


@pytest.mark.parametrize("count", [0, 5])
def test_a_split_that_leaves_nothing_is_refused(count):
    with pytest.raises(ConfigError, match=r"data\.test_share"):
        stratified_split(np.zeros(5), count, seed=0)


def test_columns_of_different_lengths_and_stray_labels_are_refused():
    with pytest.raises(DataError, match="one length"):
        ArraySource("a", {"image": np.zeros((3, 2, 2), np.uint8), "label": np.zeros(2, int)})
    with pytest.raises(DataError, match="from 0 to 2, but there are 2 classes"):
        ArraySource("a", {"image": np.zeros((2, 2, 2), np.uint8), "label": np.array([0, 2])}, ("x", "y"))


def test_the_fingerprint_follows_the_content():
    image = np.arange(16, dtype=np.uint8).reshape(4, 2, 2)
    first, same, changed = (ArraySource("a", {"image": value}) for value in (image, image.copy(), image[::-1]))
    assert isinstance(first, Source)
    assert first.fingerprint == same.fingerprint != changed.fingerprint
    assert first.columns["image"].shape == (4, 2, 2, 1) and first.name_of(3) == "a[3]"


def test_unknown_sources_and_splits_are_named_with_their_neighbours():
    with pytest.raises(ConfigError, match=r"data.source 'digit' is unknown; did you mean 'digits'\?"):
        data.open_source({"source": "digit"}, "train", seed=0)
    with pytest.raises(ConfigError, match=r"no split 'tset'; did you mean 'test'"):
        data.open_source({"source": "digits"}, "tset", seed=0)


def test_the_config_says_what_a_source_calls_its_splits():
    test = data.open_source({"source": "digits", "train": "train", "test": "test"}, "test", seed=0)
    swapped = data.open_source({"source": "digits", "train": "test", "test": "train"}, "train", seed=0)
    assert test.fingerprint == swapped.fingerprint


def test_digits_are_split_as_promised():
    train, test, whole = (data.open_source({"source": "digits"}, split, seed=seed) for split, seed in (("train", 0), ("test", 1), ("all", 0)))
    assert (len(train), len(test), len(whole)) == (1437, 360, 1797)
    share = np.bincount(test.columns["label"]) / np.bincount(whole.columns["label"]) * 1797 / 360
    assert np.abs(share - 1).max() < 0.03
    assert test.columns["image"].max() == 255 and test.columns["image"].dtype == np.uint8
    pictures = {bytes(image) for image in whole.columns["image"]}
    assert pictures == {bytes(image) for part in (train, test) for image in part.columns["image"]}
    assert train.classes == tuple("0123456789")
