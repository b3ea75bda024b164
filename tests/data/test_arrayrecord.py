import io
import pickle

import numpy as np
import pytest
from PIL import Image

import jaxvision.data as data
from jaxvision.data import Decode, TrainStream
from jaxvision.data.arrayrecord import open_arrayrecord, write_arrayrecord
from jaxvision.data.decode import decode
from jaxvision.data.shapes import CLASSES, paint
from jaxvision.data.source import Unreadable
from jaxvision.errors import DataError


@pytest.fixture
def records(tmp_path):
    pictures = [paint(0, i, (24, 32), 3) for i in range(7)]
    write_arrayrecord(tmp_path / "shapes-train.array_record-00000-of-00002", pictures[:4], CLASSES)
    write_arrayrecord(tmp_path / "shapes-train.array_record-00001-of-00002", pictures[4:], CLASSES)
    write_arrayrecord(tmp_path / "shapes-test.array_record", pictures[:2])
    return tmp_path, pictures


def test_what_was_written_is_read_with_boxes_masks_and_classes(records):
    folder, pictures = records
    source = data.open_source({"source": "arrayrecord", "path": str(folder)}, "train", seed=0)
    assert len(source) == 7 and source.classes == CLASSES and len(open_arrayrecord(str(folder), "test")) == 2
    stream = TrainStream(source, batch_size=7, image=Decode((24, 32), crop="none", max_boxes=3), seed=0, epoch_shuffle=False, workers=0)
    batch = next(stream)
    for i, picture in enumerate(pictures):
        for key in ("image", "mask", "boxes", "box_label", "box_valid", "label"):
            np.testing.assert_array_equal(batch[key][i], picture[key], err_msg=key)
    stream.close()


def test_what_a_box_carries_is_written_and_read_with_it(tmp_path):
    picture = paint(0, 1, (24, 32), 3)
    valid = np.array([True, False, True])
    columns = {"box_valid": valid, "box_ignore": np.array([True, True, False]), "box_area": np.array([4.5, 5.5, 6.5])}
    record = {"image": picture["image"], "boxes": np.ones((3, 4)), "box_label": np.arange(3), **columns}
    write_arrayrecord(tmp_path / "x-train.array_record", [record])
    record = open_arrayrecord(str(tmp_path), "train").record(0)
    assert record["box_label"].tolist() == [0, 2] and record["box_area"].tolist() == [4.5, 6.5]
    assert record["box_ignore"].tolist() == [True, False] and record["box_ignore"].dtype == bool


def test_a_source_travels_to_another_process(records):
    source = open_arrayrecord(str(records[0]), "train")
    source.record(0)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.record(5)["image"] == source.record(5)["image"] and copy.fingerprint == source.fingerprint


def test_numbers_pass_and_the_usual_names_of_features_are_known(tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    example = {"image/encoded": file.getvalue(), "image/class/label": 4, "image/filename": b"a.png", "age": 3.5, "soft": np.array([0.25, 0.75])}
    write_arrayrecord(tmp_path / "one.array_record", [example])
    record = open_arrayrecord(str(tmp_path / "one.array_record"), "train").record(0)
    assert set(record) == {"image", "label", "age", "soft"}
    assert record["age"] == 3.5 and record["label"] == 4 and record["label"].dtype == np.int32
    np.testing.assert_array_equal(record["soft"], np.array([0.25, 0.75], np.float32))
    np.testing.assert_array_equal(decode(record, Decode((2, 2), crop="none"), "x")["image"], picture)


def test_what_is_wrong_is_one_line(records, tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    folder, _ = records
    with pytest.raises(DataError, match="neither a file nor a folder"):
        open_arrayrecord(str(folder / "nowhere"), "train")
    with pytest.raises(DataError, match="no ArrayRecord files of split 'valid'"):
        open_arrayrecord(str(folder), "valid")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \*.array_record files"):
        open_arrayrecord(str(tmp_path / "empty"), "train")
    damaged = tmp_path / "damaged.array_record"
    damaged.write_bytes(b"not an array record" * 100)
    with pytest.raises(DataError, match="cannot be read as ArrayRecord"):
        open_arrayrecord(str(damaged), "train")
    writer = ArrayRecordWriter(str(tmp_path / "odd.array_record"), "group_size:1")
    writer.write(b"\xff\xff\xff\xff")
    writer.write(b"")
    writer.close()
    odd = open_arrayrecord(str(tmp_path / "odd.array_record"), "train")
    with pytest.raises(Unreadable, match=r"odd.array_record\[0\] cannot be read: it is not a tf.train.Example"):
        odd.record(0)
    with pytest.raises(Unreadable, match="it has no feature 'image'"):
        odd.record(1)
    with pytest.raises(DataError, match=r"only 0\.\.255 can be written"):
        write_arrayrecord(tmp_path / "a.array_record", [{"image": b"", "mask": np.array([[300]])}])
