import numpy as np
import pytest
from PIL import Image

from jaxvision.data import EvalStream, TrainStream, open_source
from jaxvision.data.decode import Decode, decode
from jaxvision.data.paired import open_paired
from jaxvision.errors import ConfigError, DataError


def write(path, seed, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def pairs(folder, names, damaged="input", clean="target"):
    for number, name in enumerate(names):
        pixels = write(folder / damaged / f"{name}.png", number)
        (folder / clean / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels).save(folder / clean / f"{name}.bmp")


def names(source):
    return [source.name_of(i).rsplit("/", 1)[1] for i in range(len(source))]


def test_both_halves_of_a_pair_are_cut_alike(tmp_path):
    pairs(tmp_path, [f"{i}" for i in range(10)])
    source = open_source({"source": "paired", "path": str(tmp_path), "test_share": 0.3}, "train", seed=0)
    stream = TrainStream(source, batch_size=7, image=Decode((8, 12), crop="window"), seed=0, workers=0)
    batch = next(stream)
    assert batch["image"].shape == batch["target"].shape == (7, 8, 12, 3)
    np.testing.assert_array_equal(batch["image"], 255 - batch["target"])
    assert len({image.tobytes() for image in batch["image"]}) == 7
    for crop in ("resize", "random_resized"):
        made = decode(source.record(0), Decode((8, 12), crop=crop), "p", np.random.RandomState(0).uniform(size=40))
        assert np.abs(made["image"].astype(int) - (255 - made["target"].astype(int))).max() <= 1


def test_pairs_go_by_names_and_splits_by_seed_or_by_folder(tmp_path):
    pairs(tmp_path / "seed", ["b/2", "a", "b/1", "c", "d"], "low", "high")
    parts = {split: open_paired(str(tmp_path / "seed"), split, 0.4, 0) for split in ("train", "test", "all")}
    assert names(parts["all"]) == ["a.png", "1.png", "2.png", "c.png", "d.png"]
    assert sorted(names(parts["train"]) + names(parts["test"])) == sorted(names(parts["all"])) and len(parts["test"]) == 2
    assert parts["all"].target.name_of(1).endswith("high/b/1.bmp")
    pairs(tmp_path / "given" / "train", ["a"], "night", "day")
    pairs(tmp_path / "given" / "val", ["z", "y"], "night", "day")
    test = open_source({"source": "paired", "path": str(tmp_path / "given"), "name": "night,day", "test": "test"}, "test", seed=0)
    assert names(test) == ["y.png", "z.png"]
    assert names(open_paired(str(tmp_path / "given"), "val", 0.2, 0, "night,day")) == names(test)


def test_a_picture_without_a_partner_is_named(tmp_path):
    pairs(tmp_path, ["a", "b"])
    write(tmp_path / "target" / "c.png", 0)
    with pytest.raises(DataError, match=r"target/c\.png has no partner of that name in .*input; every"):
        open_paired(str(tmp_path), "all", 0.2, 0)
    write(tmp_path / "input" / "d.png", 0)
    write(tmp_path / "input" / "e.png", 0)
    with pytest.raises(DataError, match=r"input/d\.png has no partner of that name in .*target, nor have 1 more"):
        open_paired(str(tmp_path), "all", 0.2, 0)
    write(tmp_path / "input" / "a.jpg", 0)
    with pytest.raises(DataError, match=r"a\.jpg and a\.png"):
        open_paired(str(tmp_path), "all", 0.2, 0)


def test_a_pair_of_two_sizes_is_skipped_or_ends_the_run_by_name(tmp_path):
    pairs(tmp_path, ["a", "b"])
    write(tmp_path / "target" / "b.bmp", 0, (20, 31))
    source, image = open_paired(str(tmp_path), "all", 0.2, 0), Decode((8, 12), crop="window")
    with pytest.raises(DataError, match=r"b\.png is 20x30, but its target 20x31; a pair has one size"):
        list(EvalStream(source, batch_size=2, image=image, workers=0))
    stream = EvalStream(source, batch_size=2, image=image, workers=0, corrupt="skip")
    assert [batch["valid"].tolist() for batch in stream] == [[True, False]]


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"needs data\.path"):
        open_source({"source": "paired"}, "train", seed=0)
    with pytest.raises(DataError, match="not a folder"):
        open_paired(str(tmp_path / "no"), "train", 0.2, 0)
    with pytest.raises(DataError, match="two folders of pairs, input and target, "):
        open_paired(str(tmp_path), "train", 0.2, 0)
    with pytest.raises(ConfigError, match="takes two folders"):
        open_paired(str(tmp_path), "train", 0.2, 0, "input")
    for folder in ("input", "target"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="hold no pictures"):
        open_paired(str(tmp_path), "train", 0.2, 0)
    pairs(tmp_path, ["a", "b"])
    with pytest.raises(ConfigError, match="no split 'tests'"):
        open_paired(str(tmp_path), "tests", 0.2, 0)
