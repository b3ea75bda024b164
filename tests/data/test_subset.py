"""Parts of the training examples, by number and by share."""

import numpy as np
import pytest

from jaxvision.data.folder import FileSource
from jaxvision.data.source import ArraySource
from jaxvision.data.subset import Subset, groups_of, limited
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


def test_a_share_of_the_videos_has_all_of_their_frames_and_none_of_the_others(tmp_path):
    # Eight videos of 3 to 10 frames, the phases of each in folders of their own, as Cholec80 is kept.
    names = [f"{phase}/video{v:02d}_{f:06d}.jpg" for phase in ("clipping", "packaging") for v in range(1, 9) for f in range(v + 2)]
    source = FileSource(tmp_path / "video99", names, np.zeros(len(names), np.int32), ("clipping", "packaging"))
    frames = {f"video{v:02d}": 2 * (v + 2) for v in range(1, 9)}
    seen = []
    for seed in range(3):
        part = limited(source, 0.25, seed, r"video\d+")
        videos = [part.name_of(i).rpartition("/")[2][:7] for i in range(len(part))]
        assert len(set(videos)) == 2 and all(videos.count(video) == frames[video] for video in set(videos))
        assert (np.diff(part.numbers) > 0).all()
        seen.append(frozenset(videos))
    assert len(set(seen)) > 1 and frozenset(groups_of(limited(source, 0.25, 0, r"video\d+"), r"video(\d+)")) == {name[5:] for name in seen[0]}
    assert len(limited(source, 8, 0, r"video\d+")) == len(names)
    with pytest.raises(ConfigError, match=r"the source has 8 groups by 'video\\\\d\+'; take 1 to 8"):
        limited(source, 9, 0, r"video\d+")
    with pytest.raises(ConfigError, match=r"finds nothing in .*video01_000000\.jpg"):
        limited(source, 0.5, 0, r"patient\d+")


def test_groups_may_be_a_column_or_a_field_of_records():
    columns = {"image": np.zeros((12, 1, 1), np.uint8), "label": np.arange(12, dtype=np.int32) % 2, "video": np.arange(12) // 3}
    memory = limited(ArraySource("frames", columns, ("a", "b")), 0.5, 1, "video")
    assert len(memory) == 6 and len(set(memory.columns["video"].tolist())) == 2

    class OnDisk:
        columns, classes, fingerprint = None, ("a", "b"), "disk"
        record = staticmethod(lambda i: {"video": columns["video"][i]})
        __len__ = lambda self: 12

    with pytest.raises(ConfigError, match="no such field; did you mean 'video'"):
        limited(OnDisk(), 0.5, 1, "vide")
    assert columns["video"][limited(OnDisk(), 0.5, 1, "video").numbers].tolist() == memory.columns["video"].tolist()


@pytest.mark.parametrize("count", [0, 401, 0.0, 1.5])
def test_a_limit_that_cannot_be_is_one_line(count):
    with pytest.raises(ConfigError, match="the source has 400 examples; take 1 to 400, a share below 1, or None"):
        limited(SOURCE, count)
