import numpy as np
import pytest

from jaxvision.data.decode import Decode
from jaxvision.data.patches import Patch, cut_patch, places_of
from jaxvision.data.phantoms import KINDS, open_phantoms, phantom
from jaxvision.data.stream import EvalStream
from jaxvision.errors import ConfigError, DataError


def test_a_phantom_follows_from_its_number_and_has_all_organs_one_of_them_rare():
    one, again, other = (phantom(3, number, (16, 32, 32)) for number in (5, 5, 6))
    assert all(np.array_equal(one[name], again[name]) for name in ("volume", "mask")) and not np.array_equal(one["mask"], other["mask"])
    counts = np.sum([np.bincount(phantom(0, number, (16, 32, 32))["mask"].ravel(), minlength=6) for number in range(12)], axis=0)
    assert len(counts) == 6 and counts.min() > 0 and counts[1] > 20 * counts[5]
    assert abs(one["volume"].mean()) < 1e-3 and abs(one["volume"].std() - 1) < 1e-3 and one["volume"].shape == (16, 32, 32, 1)


def test_liver_and_spleen_have_one_brightness_and_their_sides():
    made = [phantom(0, number, (16, 32, 32)) for number in range(8)]
    bright = [np.median([np.median(p["volume"][p["mask"] == c]) for p in made]) for c in (1, 2)]
    sides = [np.mean([np.argwhere(p["mask"] == c)[:, 2].mean() for p in made]) for c in (1, 2)]
    assert abs(bright[0] - bright[1]) < 0.15 and sides[1] < 15.5 < sides[0]


def test_a_far_cue_is_out_of_sight_of_what_it_decides():
    for number in range(6):
        made = phantom(0, number, (16, 32, 32), "far_cue")
        where = np.argwhere(np.isin(made["mask"], (1, 2)))
        assert (where < (5, 10, 10)).all()
        kind = made["mask"].flat[np.flatnonzero(np.isin(made["mask"], (1, 2)))[0]]
        marker = made["volume"][15, 31, 31, 0]
        assert (marker > 1) == (kind == 2) and (marker < -1) == (kind == 1)


def test_sources_of_both_splits_differ_and_wrong_settings_are_one_line():
    train, test = (open_phantoms(split, 4, (16, 16, 16), "organs", 0) for split in ("train", "test"))
    assert len(train) == 4 and train.classes == KINDS["organs"][1] and train.record(0) is train.record(0)
    assert not np.array_equal(train.record(0)["mask"], test.record(0)["mask"])
    for arguments in (("val", 4, (16, 16, 16), "organs"), ("train", 4, (16, 16), "organs"), ("train", 4, (16, 16, 16), "organ")):
        with pytest.raises(ConfigError):
            open_phantoms(*arguments, 0)


def test_volumes_and_pictures_need_sizes_of_their_own():
    source = open_phantoms("train", 2, (12, 12, 12), "organs", 0)
    with pytest.raises(ConfigError, match=r"phantoms\[0\] is a volume"):
        next(iter(EvalStream(source, batch_size=1, image=Decode((12, 12)), workers=0)))
    batch = next(iter(EvalStream(source, batch_size=2, image=Patch((8, 8, 8)), workers=0)))
    assert batch["volume"].shape == (2, 8, 8, 8, 1) and batch["mask"].shape == (2, 8, 8, 8) and batch["valid"].all()


def example():
    mask = np.zeros((10, 12, 14), np.uint8)
    mask[:, :, :4], mask[8, 9, 13], mask[0, 0, 12] = 1, 2, 3
    return {"volume": np.arange(mask.size, dtype=np.float32).reshape(*mask.shape, 1), "mask": mask, "spacing": np.ones(3)}


def test_rare_classes_are_drawn_as_often_as_large_ones_and_lie_anywhere_in_the_patch():
    record, patch, rng = example(), Patch((4, 4, 4), balance=1.0), np.random.RandomState(0)
    record["places"] = places_of(record["mask"])
    seen, places = np.zeros(4), []
    for _ in range(400):
        cut = cut_patch(record, patch, "x", rng.uniform(size=40))
        assert cut["volume"].shape == (4, 4, 4, 1) and set(cut) == {"volume", "mask"}
        held = np.unique(cut["mask"])
        seen[held] += 1
        places += np.argwhere(cut["mask"] == 2).tolist()
    assert seen[2] / 400 == pytest.approx(1 / 3, abs=0.08) and seen[3] / 400 == pytest.approx(1 / 3, abs=0.08)
    assert len(np.unique(np.array(places)[:, 0])) >= 2


def test_without_balance_patches_are_uniform_and_the_evaluated_one_is_central():
    record, patch, rng = example(), Patch((4, 4, 4), balance=0.0), np.random.RandomState(0)
    corners = [np.unravel_index(int(cut_patch(record, patch, "x", rng.uniform(size=40))["volume"].min()), (10, 12, 14)) for _ in range(300)]
    assert [sorted(set(axis)) for axis in zip(*corners)] == [list(range(7)), list(range(9)), list(range(11))]
    assert np.array_equal(cut_patch(record, patch, "x")["volume"], record["volume"][3:7, 4:8, 5:9])


def test_a_small_volume_is_surrounded_by_its_darkest_value():
    record = example()
    cut = cut_patch(record, Patch((12, 12, 8), balance=0.0), "x", np.full(40, 0.999))
    assert cut["volume"].shape == (12, 12, 8, 1) and (cut["volume"][0] == 0).all() and (cut["mask"][[0, 11]] == 0).all()
    assert np.array_equal(cut["volume"][1:11], record["volume"][:, :, 6:]) and np.array_equal(cut["mask"][1:11], record["mask"][:, :, 6:])
    with pytest.raises(DataError, match="x is"):
        cut_patch({**record, "mask": record["mask"][1:]}, Patch((4, 4, 4)), "x")
