import io
import json

import numpy as np
import pytest
from PIL import Image

import jaxvision.data as data
from jaxvision.data.coco import open_coco
from jaxvision.data.decode import Decode, decode, placed
from jaxvision.data.voc import CLASSES, open_voc
from jaxvision.errors import ConfigError, DataError


def png(height, width, box=None):
    """A black picture, white within `box`."""
    pixels = np.zeros((height, width, 3), np.uint8)
    if box is not None:
        pixels[box[0] : box[2], box[1] : box[3]] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def content():
    return {
        "images": [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 18, "bbox": [10, 20, 30, 5.5], "area": 99.5, "iscrowd": 0},
            {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0, 0, 8, 8], "iscrowd": 1},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").write_bytes(png(60, 80))
    (tmp_path / "val" / "b.png").write_bytes(png(30, 20))
    return tmp_path


def write(folder, value):
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "annotations" / "instances_val.json").write_text(text)
    return str(folder)


def test_pictures_and_boxes_are_read_in_the_order_of_ids(folder):
    source = data.open_source({"source": "coco", "path": write(folder, content()), "test": "val"}, "test", seed=0)
    assert source.classes == ("person", "dog") and len(source) == 2 and source.name_of(0).endswith("val/a.png")
    first, second = source.record(0), source.record(1)
    np.testing.assert_array_equal(first["boxes"], [[20, 10, 25.5, 40], [0, 0, 8, 8]])
    assert first["box_label"].tolist() == [1, 0] and first["box_ignore"].tolist() == [False, True]
    assert first["box_area"].tolist() == [99.5, 64] and second["boxes"].shape == (0, 4)


def test_batches_have_one_number_of_boxes(folder):
    source = open_coco(write(folder, content()), "val")
    image = Decode((64, 64), crop="letterbox", interpolation="bilinear", max_boxes=3)
    batch = next(iter(data.EvalStream(source, batch_size=2, image=image, workers=0)))
    assert {name: batch[name].shape for name in ("boxes", "box_valid", "box_ignore", "box_area", "place", "size")} == {
        "boxes": (2, 3, 4), "box_valid": (2, 3), "box_ignore": (2, 3), "box_area": (2, 3), "place": (2, 4), "size": (2, 2)
    }  # fmt: skip
    assert batch["box_valid"].tolist() == [[True, True, False], [False] * 3]
    # 80 pixels on 64, and the rest above and below.
    np.testing.assert_allclose(batch["boxes"][0, 0], [24, 8, 28.4, 32], atol=1e-4)
    np.testing.assert_allclose(batch["boxes"][0, 0] * 1.25 + np.tile(batch["place"][0, :2], 2), [20, 10, 25.5, 40], atol=1e-4)
    assert batch["size"].tolist() == [[60, 80], [30, 20]]


BROKEN = {
    "is no JSON": "{",
    "has no list 'categories'": {"images": [], "annotations": []},
    "lists no images": {**content(), "images": []},
    r"images\[1\] has no file_name": {**content(), "images": [{"id": 3, "file_name": "a.png"}, {"id": 4}]},
    "images have 1 different ids": {**content(), "images": [{"id": 3, "file_name": "a.png"}] * 2},
    r"annotations\[0\] \(id 1\) is of image_id 4": {**content(), "annotations": [{**content()["annotations"][0], "image_id": 4}]},
    r"is of category_id 2, which": {**content(), "annotations": [{**content()["annotations"][0], "category_id": 2}]},
    r"has the bbox \[1, 2, 3\]; four": {**content(), "annotations": [{**content()["annotations"][0], "bbox": [1, 2, 3]}]},
    r"has the bbox \[1, 2, -3, 4\]": {**content(), "annotations": [{**content()["annotations"][0], "bbox": [1, 2, -3, 4]}]},
    "lists c.png, which is not in": {**content(), "images": [*content()["images"], {"id": 9, "file_name": "c.png"}]},
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_file_is_one_line(folder, line):
    with pytest.raises(DataError, match=line):
        open_coco(write(folder, BROKEN[line]), "val")


def test_absent_annotations_name_what_is_there(folder):
    with pytest.raises(DataError, match=r"has no annotations of 'vall' .*instances_val.json"):
        open_coco(write(folder, content()), "vall")
    with pytest.raises(ConfigError, match=r"needs data\.path"):
        open_coco("", "val")


BNDBOX = "<bndbox><xmin>9</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>12</ymax></bndbox>"
XML = f"<annotation><object><name>{{}}</name><difficult>1</difficult>{BNDBOX}</object></annotation>"
RAT = (XML.format("rat", 20), r"a 'rat', which is no class.*'cat'")


@pytest.fixture
def devkit(tmp_path):
    for year, name in (("2007", "000005"), ("2012", "2008_000001")):
        place = tmp_path / f"VOC{year}"
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (place / part).mkdir(parents=True)
        (place / "ImageSets/Main/trainval.txt").write_text(f"{name}\n")
        (place / f"JPEGImages/{name}.jpg").write_bytes(png(40, 40))
        (place / f"Annotations/{name}.xml").write_text(XML.format("cat", 20))
    return tmp_path


def test_voc_s_boxes_count_from_0_and_years_join(devkit):
    source = open_voc(str(devkit), "2007/trainval+2012/trainval")
    record = source.record(1)
    assert len(source) == 2 and source.classes[record["box_label"][0]] == "cat" and source.classes == CLASSES
    assert record["boxes"].tolist() == [[0, 8, 12, 20]] and record["box_ignore"].tolist() == [True] and record["box_area"].tolist() == [144]


@pytest.mark.parametrize("text, line", [("<annotation>", "is no XML"), RAT, (XML.format("cat", ""), "has the box")])
def test_a_broken_annotation_of_voc_is_one_line(devkit, text, line):
    (devkit / "VOC2012/Annotations/2008_000001.xml").write_text(text)
    with pytest.raises(DataError, match=line):
        open_voc(str(devkit), "2007/trainval+2012/trainval")


def test_absent_lists_of_voc_name_what_is_there(devkit):
    with pytest.raises(DataError, match="'2007/trainval'"):
        open_voc(str(devkit), "2007/train")
    with pytest.raises(ConfigError, match="2007/test"):
        open_voc(str(devkit), "trainval")


@pytest.mark.parametrize("crop", ["center_affine", "letterbox", "center_canvas"])
def test_boxes_stay_on_what_they_frame_under_every_crop(crop):
    box = (30, 40, 70, 100)
    record = {"image": png(120, 150, box), "boxes": np.array([box], np.float32)}
    image = Decode((128, 128), crop=crop, interpolation="bilinear")
    for seed in (None, *range(6)):
        randoms = None if seed is None else np.random.RandomState(seed).uniform(size=40)
        made = decode(record, image, "x", randoms)
        rows, columns = np.nonzero(made["image"][..., 0] > 127)
        if made["box_valid"][0] and len(rows):
            extent = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            np.testing.assert_allclose(made["boxes"][0], extent, atol=1.01)


def test_crops_have_centernet_s_scales_and_centres_and_evaluation_shows_all():
    affine = Decode((512, 512), "center_affine", interpolation="bilinear")
    train = [placed((375, 500), affine, np.random.RandomState(i).uniform(size=40)) for i in range(300)]
    scales = np.array([where.down for where in train]) * 512 / 500
    np.testing.assert_allclose(np.unique(scales.round(6)), np.arange(0.6, 1.35, 0.1))
    rows, columns = (np.array([getattr(where, side) + 256 * where.down for where in train]) for side in ("top", "left"))
    assert 128 <= rows.min() and rows.max() <= 375 - 128 and 128 <= columns.min() and columns.max() <= 500 - 128
    whole = placed((375, 500), affine, None)
    assert (whole.left, whole.across) == (0, 500 / 512)
    native = placed((375, 500), Decode((512, 512), "center_canvas", interpolation="bilinear"), None)
    assert (native.top, native.left, native.down) == (-68.5, -6, 1)


def test_a_crop_with_places_wants_a_filter_that_warps():
    with pytest.raises(ConfigError, match=r"takes data\.interpolation 'bilinear'"):
        Decode((64, 64), crop="letterbox", interpolation="lanczos")
