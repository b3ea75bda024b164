"""Data that are not there, known by name or declared in the config."""

import numpy as np
import pytest

from jaxvision.data.declared import declared_source, split_size
from jaxvision.errors import ConfigError

IMAGENET = {"source": "tfds", "name": "imagenet2012", "train": "train[:99%]", "test": "validation"}


def test_known_data_set_has_its_classes_and_sizes():
    train, test = (declared_source(IMAGENET, split, (224, 224, 3)) for split in ("train", "test"))
    assert (len(train), len(test), len(train.classes)) == (1_268_355, 50_000, 1000)
    record = train.record(0)
    assert record["image"].shape == (224, 224, 3) and record["image"].dtype == np.uint8 and record["label"] == 0


@pytest.mark.parametrize(
    ("split", "size"),
    [("train", 1000), ("train[:99%]", 990), ("train[10%:]", 900), ("train[:300]+test", 350), ("train[-5%:]", 50), ("validation", None)],
)
def test_size_of_a_part_of_a_split(split, size):
    assert split_size(split, {"train": 1000, "test": 50}) == size


def test_config_goes_before_what_is_known_and_says_what_records_hold():
    data = {**IMAGENET, "classes": 21, "train_size": 500, "columns": ("mask",)}
    source = declared_source(data, "train", (32, 48, 1))
    assert (len(source), len(source.classes)) == (500, 21)
    assert source.record(3)["mask"].shape == (32, 48) and "label" not in source.record(3)


def test_what_is_neither_known_nor_declared_is_asked_for():
    with pytest.raises(ConfigError, match=r"nothing is known of 'mine'.*--config.data.classes=N --config.data.train_size=N"):
        declared_source({"source": "tfds", "name": "mine"}, "train", (8, 8, 3))
    with pytest.raises(ConfigError, match=r"'data.columns' has 'masks'; did you mean 'mask'"):
        declared_source({**IMAGENET, "columns": ("masks",)}, "train", (8, 8, 3))
