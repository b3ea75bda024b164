import itertools

import numpy as np
import pytest

import jaxvision.data as data
from jaxvision.data import ArraySource, Decode, EvalStream, TrainStream
from jaxvision.data.decode import decode
from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError
from tests.data.conftest import write_jpeg

SMALL = Decode((4, 4), channels=1)
CROPS = Decode((16, 24))


def memory(count: int = 37) -> ArraySource:
    image = np.random.RandomState(0).randint(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    return ArraySource("memory", {"image": image, "label": np.arange(count, dtype=np.int32)})


def take(stream, count):
    return list(itertools.islice(stream, count))


def joined(batches):
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
        assert a[key].dtype == b[key].dtype


@pytest.fixture(params=["memory", "files"])
def source_and_decode(request, picture_folder):
    if request.param == "memory":
        return memory(), SMALL
    return data.open_source({"source": "folder", "path": str(picture_folder)}, "train", seed=0), CROPS


def stream(source_and_decode, **settings):
    source, decode = source_and_decode
    return TrainStream(source, image=decode, seed=5, workers=0, **{"batch_size": 8, **settings})


def test_a_position_means_the_same_at_every_batch_size(source_and_decode):
    whole = joined(take(stream(source_and_decode), 12))
    for size in (1, 3, 12, 32):
        other = stream(source_and_decode, batch_size=size)
        assert_equal(joined(take(other, 96 // size)), whole)
        assert other.position == 96
        other.close()


def test_a_resume_at_any_position_equals_the_uninterrupted_stream(source_and_decode):
    whole = joined(take(stream(source_and_decode), 8))
    for position in (0, 5, 8, 31, 40):
        resumed = stream(source_and_decode, position=position, batch_size=6)
        part = joined(take(resumed, 4))
        assert_equal(part, {key: value[position : position + 24] for key, value in whole.items()})
        assert resumed.position == position + 24
        resumed.close()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_hold_contiguous_blocks_of_the_same_global_batch(source_and_decode, count):
    alone = take(stream(source_and_decode), 5)
    parts = [take(stream(source_and_decode, process_index=p, process_count=count), 5) for p in range(count)]
    for step, batch in enumerate(alone):
        assert_equal(joined([part[step] for part in parts]), batch)


def test_every_epoch_draws_every_example_once(source_and_decode):
    size = len(source_and_decode[0])
    index = joined(take(stream(source_and_decode, batch_size=size), 3))["index"].reshape(3, size)
    np.testing.assert_array_equal(np.sort(index, axis=1), np.tile(np.arange(size), (3, 1)))
    assert not np.array_equal(index[0], index[1])


def test_rows_are_the_examples_that_index_names():
    source = memory()
    batch = next(TrainStream(source, batch_size=16, image=SMALL, seed=0))
    np.testing.assert_array_equal(batch["image"], source.columns["image"][batch["index"]])
    np.testing.assert_array_equal(batch["label"], batch["index"])
    assert batch["index"].dtype == np.int32 and batch["valid"].all()


def test_a_training_set_smaller_than_a_batch_works():
    batch = next(TrainStream(memory(3), batch_size=8, image=SMALL, seed=0))
    for epoch in (batch["index"][:3], batch["index"][3:6]):
        np.testing.assert_array_equal(np.sort(epoch), [0, 1, 2])


@pytest.mark.parametrize("size", [1, 4, 12, 40, 64])
@pytest.mark.parametrize("processes", [1, 4])
def test_evaluation_sees_every_example_exactly_once(source_and_decode, size, processes):
    source, decode = source_and_decode
    if size % processes:
        with pytest.raises(ConfigError, match="does not divide"):
            EvalStream(source, batch_size=size, image=decode, process_count=processes)
        return
    streams = [EvalStream(source, batch_size=size, image=decode, process_index=p, process_count=processes, workers=0) for p in range(processes)]
    parts = [list(stream) for stream in streams]
    assert {len(part) for part in parts} == {len(stream) for stream in streams} == {-(-len(source) // size)}
    together = [joined(step) for step in zip(*parts)]
    assert all(len(batch["valid"]) == size for batch in together)
    rows = joined(together)
    np.testing.assert_array_equal(rows["index"][rows["valid"]], np.arange(len(source)))
    padding = ~rows["valid"]
    assert padding.sum() == size * len(streams[0]) - len(source)
    np.testing.assert_array_equal(rows["image"][padding], np.repeat(rows["image"][rows["valid"]][-1:], padding.sum(), axis=0))
    [stream.close() for stream in streams]


def test_evaluation_may_be_repeated_and_left_early(source_and_decode):
    source, decode = source_and_decode
    stream = EvalStream(source, batch_size=4, image=decode, workers=0)
    first = joined(list(stream))
    assert_equal(joined(list(stream)), first)
    next(iter(stream))
    assert_equal(joined(list(stream)), first)
    stream.close()


@pytest.fixture
def damaged(tmp_path):
    """Ten pictures of which the third is cut short, the sixth is no picture and the seventh is gone."""
    for i in range(10):
        write_jpeg(tmp_path / f"{i}.jpg", i)
    whole = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "5.jpg").write_text("not a picture")
    source = data.files_source(tmp_path)
    (tmp_path / "6.jpg").unlink()
    return source


def test_the_error_policy_names_the_file(damaged):
    stream = TrainStream(damaged, batch_size=10, image=CROPS, seed=0, workers=0)
    with pytest.raises(DataError, match=r"[256]\.jpg cannot be (read|decoded): .*data.corrupt='skip'"):
        next(stream)
    for name, says in (("2.jpg", "truncated"), ("5.jpg", "not a picture"), ("6.jpg", "No such file")):
        i = int(name[0])
        with pytest.raises(Unreadable, match=rf"{name} cannot be .*{says}"):
            decode(damaged.record(i), CROPS, damaged.name_of(i))


def test_the_skip_policy_keeps_the_slot_with_a_copy_and_counts_it(damaged):
    stream = EvalStream(damaged, batch_size=10, image=CROPS, workers=0, corrupt="skip")
    (batch,) = list(stream)
    np.testing.assert_array_equal(batch["index"], np.arange(10))
    np.testing.assert_array_equal(batch["valid"], [i not in (2, 5, 6) for i in range(10)])
    for i in np.flatnonzero(batch["valid"]):
        np.testing.assert_array_equal(batch["image"][i], decode(damaged.record(i), CROPS, "x")["image"])
    for slot, copy in ((2, 1), (5, 4), (6, 7)):
        np.testing.assert_array_equal(batch["image"][slot], batch["image"][copy])
    assert sorted(name[-5:] for name in stream.skipped) == ["2.jpg", "5.jpg", "6.jpg"]
    assert stream.skipped_count == 3 and "truncated" in next(iter(stream.skipped.values()))
    list(stream)
    assert stream.skipped_count == 3  # of the last pass


def test_a_skipped_slot_is_filled_from_the_rows_of_the_same_process(damaged):
    alone = TrainStream(damaged, batch_size=10, image=CROPS, seed=1, workers=0, corrupt="skip")
    batch = next(alone)
    assert (~batch["valid"]).sum() == 3 == alone.skipped_count
    for p in range(2):
        half = next(TrainStream(damaged, batch_size=10, image=CROPS, seed=1, workers=0, corrupt="skip", process_index=p, process_count=2))
        rows = slice(5 * p, 5 * p + 5)
        np.testing.assert_array_equal(half["valid"], batch["valid"][rows])
        np.testing.assert_array_equal(half["image"][half["valid"]], batch["image"][rows][half["valid"]])
        readable = {image.tobytes() for image in half["image"][half["valid"]]}
        assert all(image.tobytes() in readable for image in half["image"])


def test_a_batch_without_a_readable_record_borrows_one(damaged):
    stream = TrainStream(damaged, batch_size=1, image=CROPS, seed=1, workers=0, corrupt="skip")
    batches = take(stream, 10)
    assert sum(int(batch["valid"][0]) for batch in batches) == 7 and stream.skipped_count == 3
    assert all(batch["image"].any() for batch in batches)


def test_a_source_without_any_readable_record_ends_with_one_line(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("no")
    with pytest.raises(DataError, match=r"none of the 3 records of the source can be read; .*\.png cannot be decoded"):
        next(TrainStream(data.files_source(tmp_path), batch_size=2, image=CROPS, seed=0, workers=0, corrupt="skip"))


def test_pictures_in_memory_of_another_size_are_refused_or_resized_once():
    with pytest.raises(DataError, match=r"memory\[0\] … are 4x4, but image_size is 8x6"):
        TrainStream(memory(), batch_size=4, image=Decode((8, 6)), seed=0)
    stream = TrainStream(memory(), batch_size=4, image=Decode((8, 6), crop="resize"), seed=0)
    assert stream.columns["image"].shape == (37, 8, 6, 3)
    assert TrainStream(stream.source, batch_size=4, image=Decode((8, 6), crop="resize"), seed=1).columns["image"] is stream.columns["image"]
    assert next(stream)["image"].shape == (4, 8, 6, 3)


def test_boxes_and_masks_in_memory_follow_a_resize():
    source = data.open_source({"source": "shapes", "count": 12, "size": (32, 48)}, "train", seed=0)
    batch = next(TrainStream(source, batch_size=12, image=Decode((64, 96), crop="resize"), seed=0, epoch_shuffle=False))
    np.testing.assert_allclose(batch["boxes"], source.columns["boxes"] * 2)
    np.testing.assert_array_equal(batch["mask"], np.repeat(np.repeat(source.columns["mask"], 2, axis=1), 2, axis=2))
    np.testing.assert_array_equal(batch["box_valid"], source.columns["box_valid"])


def test_channels_follow_the_settings():
    for channels, expected in ((None, 1), (1, 1), (3, 3)):
        batch = next(TrainStream(memory(), batch_size=2, image=Decode((4, 4), channels=channels), seed=0))
        assert batch["image"].shape[-1] == expected
        np.testing.assert_array_equal(batch["image"][..., 0], memory().columns["image"][batch["index"], ..., 0])


def test_painted_on_demand_equals_held_in_memory():
    from jaxvision.data.shapes import ShapesSource, open_shapes

    decode = Decode((24, 24), crop="none")
    held, painted = open_shapes("train", 10, (24, 24), 3, 7), ShapesSource(10, (24, 24), 3, 7, 0)
    streams = [TrainStream(source, batch_size=4, image=decode, seed=1, workers=0) for source in (held, painted)]
    for _ in range(4):
        assert_equal(next(streams[0]), next(streams[1]))
    streams[1].close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 7, "process_count": 2}, "batch_size 7 does not divide by the 2 processes"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"process_index": 2, "process_count": 2}, "process 2 of 2"),
        ({"corrupt": "ignore"}, "data.corrupt 'ignore' is unknown"),
        ({"position": -1}, "position is -1"),
    ],
)
def test_wrong_settings_are_one_line(settings, says):
    with pytest.raises(ConfigError, match=says):
        stream((memory(), SMALL), **settings)
