"""Predictions reach their files: right names, right order, whole files."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from jaxvision.errors import DataError
from jaxvision.train.predictions import Predictions, picture_names, write_boxes, write_csv, write_image, write_mask

CLASSES = ["cat", "dog, small", "eel", "fox", "gnu", "hen"]


def test_csv_names_the_five_most_probable_classes_in_order(tmp_path):
    probabilities = np.array([[0.05, 0.5, 0.1, 0.2, 0.03, 0.12], [0.9, 0.02, 0.02, 0.02, 0.02, 0.02]], np.float32)
    write_csv(tmp_path / "p.csv", ["a.png", "b/c.png"], probabilities, CLASSES)
    rows = list(csv.reader((tmp_path / "p.csv").open()))
    assert rows[0] == ["file", "top1", "p1", "top2", "p2", "top3", "p3", "top4", "p4", "top5", "p5"]
    assert rows[1] == ["a.png", "dog, small", "0.500000", "fox", "0.200000", "hen", "0.120000", "eel", "0.100000", "cat", "0.050000"]
    assert rows[2][:1] + rows[2][1::2] == ["b/c.png", "cat", "dog, small", "eel", "fox", "gnu"]


def test_csv_of_two_classes_has_two_and_wrong_names_are_an_error(tmp_path):
    write_csv(tmp_path / "p.csv", ["a"], np.array([[0.25, 0.75]]))
    assert (tmp_path / "p.csv").read_text() == "file,top1,p1,top2,p2\na,1,0.750000,0,0.250000\n"
    with pytest.raises(DataError, match="6 class names"):
        write_csv(tmp_path / "p.csv", ["a"], np.array([[0.25, 0.75]]), CLASSES)


def test_picture_names_keep_folders_and_never_collide():
    assert picture_names(["a.jpg", "b/a.jpg", "b/a.png", "c.tar.gz"]) == ["a.png", "b/a.jpg.png", "b/a.png.png", "c.tar.png"]


def test_float_images_are_rounded_and_clipped(tmp_path):
    write_image(tmp_path / "x" / "i.png", np.array([[[-0.5], [0.5], [1.5], [0.999]]]))
    assert np.asarray(Image.open(tmp_path / "x" / "i.png")).tolist() == [[0, 128, 255, 255]]
    with pytest.raises(DataError, match=r"\(4, 4\)"):
        write_image(tmp_path / "i.png", np.zeros((4, 4)))


@pytest.mark.parametrize("largest", [3, 255, 999])
def test_mask_pixels_are_the_class_numbers(tmp_path, largest):
    mask = np.array([[0, 1], [2, largest]])
    write_mask(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "m.png")), mask)


def test_mask_colours_are_pascal_vocs(tmp_path):
    write_mask(tmp_path / "m.png", np.array([[0, 1, 2, 3, 15]]))
    colours = np.asarray(Image.open(tmp_path / "m.png").convert("RGB"))[0].tolist()
    assert colours == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [192, 128, 128]]


def test_boxes_are_coco_annotations_best_first(tmp_path):
    boxes = [np.array([[10, 20, 40, 80.5], [0, 0, 5, 5]]), np.zeros((0, 4))]
    labels, scores = [np.array([1, 0]), np.zeros(0, int)], [np.array([0.5, 0.75]), np.zeros(0)]
    write_boxes(tmp_path / "b.json", ["a.png", "b.png"], boxes, labels, scores, CLASSES[:2])
    content = json.loads((tmp_path / "b.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog, small"}]
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.75},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [20, 10, 60.5, 30], "score": 0.5},
    ]


def test_every_output_of_a_task_is_written_by_its_kind_and_padding_is_not(tmp_path):
    files = ["a.jpg", "b.jpg", "c.jpg"]
    with Predictions(tmp_path, files, CLASSES[:2]) as predictions:
        for names, valid in ((files[:2], [True, True]), (["c.jpg", ""], [True, False])):
            outputs = {
                "probabilities": np.full((2, 2), 0.5),
                "image": np.zeros((2, 4, 4, 3), np.uint8),
                "mask": np.ones((2, 4, 4), np.int32),
                "boxes": np.zeros((2, 3, 4)),
                "box_label": np.zeros((2, 3), int),
                "box_score": np.ones((2, 3)),
                "box_valid": np.array([[True, False, False]] * 2),
                "size": np.array([[4, 6]] * 2),
                "features": np.ones((2, 8), np.float32),
            }
            predictions.add(names, outputs, np.array(valid))
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    pictures = [f"{folder}/{name}.png" for folder in ("images", "masks") for name in "abc"]
    assert found == ["boxes.json", *pictures, "outputs.npz", "predictions.csv"]
    assert sorted(predictions.written) == sorted(tmp_path / name for name in found)
    assert [row[0] for row in csv.reader((tmp_path / "predictions.csv").open())] == ["file", *files]
    boxes = json.loads((tmp_path / "boxes.json").read_text())
    assert len(boxes["annotations"]) == 3 and boxes["images"][2] == {"id": 3, "file_name": "c.jpg", "height": 4, "width": 6}
    arrays = np.load(tmp_path / "outputs.npz")
    assert arrays["features"].shape == (3, 8) and arrays["files"].tolist() == files and set(arrays) == {"files", "features"}


def test_nothing_is_written_half_when_prediction_fails(tmp_path):
    with pytest.raises(RuntimeError), Predictions(tmp_path, ["a", "b"]) as predictions:
        predictions.add(["a"], {"probabilities": np.ones((1, 2))})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
