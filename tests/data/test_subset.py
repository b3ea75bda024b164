"""Parts of the training examples, by number and by share."""

import numpy as np
import pytest

from jaxvision.data.source import ArraySource
from jaxvision.data.subset import Subset, limited
from jaxvision.errors import ConfigError

LABEL = np.repeat(np.arange(4, dtype=np.int32), (40, 40, 80, 240))
SOURCE = ArraySource("numbers", {"image": np.arange(400, dtype=np.uint8).reshape(400, 1, 1, 1), "label": LABEL}, tuple("abcd"))


def test_a_share_of_the_labels_takes_every_class_in_proportion_and_depends_on_the_seed():
    tenth = limited(SOURCE, 0.1)
    assert np.bincount(tenth.columns["label"]).tolist() == [4, 4, 8, 24]
    assert limited(SOURCE, 0.1).fingerprint == tenth.fingerprint != limited(SOURCE, 0.1, 1).fingerprint


def test_a_share_of_a_source_on_disk_is_drawn_without_looking_at_its_labels():
    class OnDisk:
        columns, classes, fingerprint = None, ("a",), "disk"

        def __len__(self):
            return 200

    drawn = limited(OnDisk(), 0.25)
    assert isinstance(drawn, Subset) and len(drawn) == 50 and (np.diff(drawn.numbers) > 0).all()


@pytest.mark.parametrize("count", [0, 401, 0.0, 1.5])
def test_a_limit_that_cannot_be_is_one_line(count):
    with pytest.raises(ConfigError, match="the source has 400 examples; take 1 to 400, a share below 1, or None"):
        limited(SOURCE, count)
