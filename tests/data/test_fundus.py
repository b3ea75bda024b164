import numpy as np
import pytest
from PIL import Image

from jaxvision.data import open_source
from jaxvision.data.fundus import crop_field_of_view, field_of_view, open_fundus, paint_fundus, patient_of, subtract_local_average
from jaxvision.errors import ConfigError


def photograph(height=60, width=90, centre=(28, 47), radius=25):
    """A noisy dark frame with a bright disc."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:height, :width] + 0.5
    image = random.randint(0, 6, (height, width, 3))
    image[np.hypot(y - centre[0], x - centre[1]) < radius] = (180, 90, 40)
    return image.astype(np.uint8)


def test_the_field_of_view_is_found_to_the_pixel():
    assert np.abs(np.subtract(field_of_view(photograph()), (3, 22, 50, 50))).max() <= 1


def test_the_crop_is_square_centred_and_black_outside():
    square = crop_field_of_view(photograph())
    assert abs(square.shape[0] - 50) <= 1 and square.shape[0] == square.shape[1]
    middle = square.shape[0] // 2
    assert tuple(square[middle, middle]) == (180, 90, 40) and not square[0, 0].any() and not square[-1, -1].any()


def test_a_disc_that_the_photograph_cuts_off_is_padded():
    square = crop_field_of_view(photograph(height=40, centre=(20, 45), radius=30))
    assert abs(square.shape[0] - 60) <= 1 and not square[2].any() and square[square.shape[0] // 2].any()


def test_subtracting_the_local_average_removes_illumination_and_keeps_detail():
    flat = crop_field_of_view(photograph())
    ramp = (flat * np.linspace(0.6, 1, flat.shape[1])[None, :, None]).astype(np.uint8)
    middle = slice(15, 35)
    assert np.ptp(ramp[middle, middle, 0].astype(int)) > 20
    assert np.ptp(subtract_local_average(ramp)[middle, middle, 0].astype(int)) < 12


def test_procedural_photographs_are_a_function_of_their_number_and_two_eyes_share_a_grade():
    first, again = (paint_fundus(0, 6, 48, "a") for _ in range(2))
    np.testing.assert_array_equal(first["image"], again["image"])
    other = paint_fundus(0, 7, 48, "a")
    assert first["patient"] == other["patient"] and first["label"] == other["label"] and (first["image"] != other["image"]).any()
    assert not first["image"][0, 0].any() and first["image"][24, 24].any()


def test_cameras_differ_in_tint_and_are_pooled_with_patients_apart():
    a, c = (open_fundus(camera, 8, (32, 32), 0).columns["image"].astype(float).mean((0, 1, 2)) for camera in ("a", "c"))
    assert a[1] / a[0] > c[1] / c[0] + 0.05
    pooled = open_fundus("a:4+b", 8, (32, 32), 0)
    assert len(pooled) == 12 and len(np.unique(pooled.columns["patient"])) == 6 and len(pooled.classes) == 5
    with pytest.raises(ConfigError, match="no camera 'd'"):
        open_fundus("a+d", 8, (32, 32), 0)


@pytest.mark.parametrize("name, patient", [("0/10_left.jpeg", "10"), ("10_right.jpeg", "10"), ("4/IDRiD_12.jpg", "IDRiD_12"), ("77_OD.png", "77")])
def test_eyes_of_a_patient_are_told_by_the_file_s_name(name, patient):
    assert patient_of(name) == patient


def test_a_folder_is_split_by_patient_and_prepared(tmp_path):
    for number in range(10):
        for eye, grade in (("left", number % 2), ("right", (number + 1) % 2)):
            (tmp_path / str(grade)).mkdir(exist_ok=True)
            Image.fromarray(photograph()).save(tmp_path / str(grade) / f"{number}_{eye}.png")
    data = {"source": "fundus_folder", "path": str(tmp_path), "test_share": 0.3}
    train, test = (open_source(data, split, seed=0) for split in ("train", "test"))
    people = [{patient_of(source.name_of(i)) for i in range(len(source))} for source in (train, test)]
    assert (len(train), len(test)) == (14, 6) and not people[0] & people[1] and train.classes == ("0", "1")
    record = test.record(0)
    assert record["image"].shape[0] == record["image"].shape[1] and record["image"].dtype == np.uint8 and "patient" in record
    with pytest.raises(ConfigError, match="'graham' is no preparation"):
        open_source({**data, "name": "graham"}, "train", seed=0)
