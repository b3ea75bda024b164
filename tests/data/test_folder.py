import os

import numpy as np
import pytest

import jaxvision.data as data
from jaxvision.data.folder import open_folder
from jaxvision.errors import ConfigError, DataError
from tests.data.conftest import write_jpeg


def names(source):
    return [os.path.relpath(source.name_of(i), source._root) for i in range(len(source))]


def test_a_folder_without_splits_is_split_by_seed_stratified(picture_folder):
    parts = {split: open_folder(str(picture_folder), split, 0.3, seed=1) for split in ("train", "test", "all")}
    assert [len(parts[split]) for split in ("train", "test", "all")] == [15, 6, 21]
    assert sorted(names(parts["train"]) + names(parts["test"])) == names(parts["all"])
    assert parts["train"].classes == ("cat", "dog", "eel")
    assert np.bincount([parts["test"].record(i)["label"] for i in range(6)]).tolist() == [2, 2, 2]
    for source in parts.values():
        assert all(source.classes[source.record(i)["label"]] == name.split("/")[0] for i, name in enumerate(names(source)))
    assert names(open_folder(str(picture_folder), "test", 0.3, seed=2)) != names(parts["test"])
    assert open_folder(str(picture_folder), "test", 0.3, seed=1).fingerprint == parts["test"].fingerprint != parts["train"].fingerprint


@pytest.mark.parametrize("folder", ["test", "val", "validation"])
def test_a_split_that_is_given_is_used_with_the_classes_of_training(tmp_path, folder):
    for name in ("ant", "bee", "cow"):
        write_jpeg(tmp_path / "train" / name / "a.jpg", 0)
    for name in ("bee", "cow"):  # no ant: the labels of the others must not move
        write_jpeg(tmp_path / folder / name / "deep" / "b.JPG", 1)
    (tmp_path / "train" / "ant" / ".DS_Store").write_text("")
    train, test = (open_folder(str(tmp_path), split, 0.2, 0) for split in ("train", "test"))
    assert train.classes == test.classes == ("ant", "bee", "cow")
    assert [test.record(i)["label"] for i in range(2)] == [1, 2]
    assert test.name_of(1) == str(tmp_path / folder / "cow" / "deep" / "b.JPG")


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(5):
        write_jpeg(tmp_path / f"{i}.jpg", i)
    train, test = (open_folder(str(tmp_path), split, 0.2, 0) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 1) and train.classes == () and set(train.record(0)) == {"image"}


def test_names_in_any_script_survive(tmp_path):
    write_jpeg(tmp_path / "猫 ü.jpg", 0)
    write_jpeg(tmp_path / "a.jpg", 1)
    source = data.files_source(tmp_path)
    assert [os.path.basename(source.name_of(i)) for i in range(2)] == ["a.jpg", "猫 ü.jpg"] and source.record(1)["image"][:2] == b"\xff\xd8"


def test_files_to_predict_are_sorted_and_found_at_any_depth(tmp_path):
    for name in ("b.jpg", "x/a.png", "x/y/c.JPEG"):
        write_jpeg(tmp_path / "in" / name.replace("png", "jpg"), 0)
    (tmp_path / "in" / "notes.txt").write_text("")
    source = data.files_source(tmp_path / "in", classes=("u", "v"))
    assert [os.path.relpath(source.name_of(i), tmp_path / "in") for i in range(3)] == ["b.jpg", "x/a.jpg", "x/y/c.JPEG"]
    assert source.classes == ("u", "v") and "label" not in source.record(0)
    assert len(data.files_source([tmp_path / "in" / "b.jpg", str(tmp_path / "in" / "x")])) == 3
    with pytest.raises(DataError, match="does not exist"):
        data.files_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        data.files_source(tmp_path / "empty")


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
    def says(path, split, pattern, kind=DataError):
        with pytest.raises(kind, match=pattern) as caught:
            open_folder(None if path is None else str(path), split, 0.2, 0)
        assert "\n" not in str(caught.value)

    says(None, "train", "needs data.path", ConfigError)
    says(tmp_path / "nowhere", "train", "is not a folder")
    says(tmp_path, "train", "holds no pictures; expected one sub-folder a class")
    write_jpeg(tmp_path / "cat" / "a.jpg", 0)
    says(tmp_path, "train", "a single class folder, 'cat'")
    (tmp_path / "dog").mkdir()
    says(tmp_path, "train", "class folder .*dog holds no pictures")
    write_jpeg(tmp_path / "dog" / "a.jpg", 0)
    (tmp_path / "dog" / "labels.csv").write_text("")
    says(tmp_path, "train", r"dog/labels.csv is not a picture")
    (tmp_path / "dog" / "labels.csv").unlink()
    says(tmp_path, "tset", "no split 'tset'; did you mean 'test'", ConfigError)
    write_jpeg(tmp_path / "stray.jpg", 0)
    says(tmp_path, "train", r"\(stray.jpg\) beside folders \(cat\)")

    given = tmp_path / "given"
    for name in ("cat", "dog"):
        write_jpeg(given / "train" / name / "a.jpg", 0)
    says(given, "test", "has train/ but no test/ folder")
    write_jpeg(given / "val" / "dgo" / "a.jpg", 0)
    says(given, "test", "dgo is not among the 2 classes of training; did you mean 'dog'")


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be read as a folder: Permission denied"):
        open_folder(str(tmp_path), "train", 0.2, 0)


def test_a_share_that_leaves_nothing_to_test_with_is_refused(picture_folder):
    with pytest.raises(ConfigError, match=r"data\.test_share"):
        data.open_source({"source": "folder", "path": str(picture_folder), "test_share": 0.0}, "test", seed=0)
