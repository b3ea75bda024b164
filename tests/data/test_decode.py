import io

import numpy as np
import pytest
from PIL import Image

from jaxvision.data.decode import RANDOMS, Decode, decode, random_box
from jaxvision.data.order import uniforms
from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError

FILTER = Image.Resampling.BICUBIC


def picture(height=90, width=120, seed=0):
    small = np.random.RandomState(seed).randint(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), FILTER)


def encoded(image, form="PNG", **settings):
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (31, 200), (20, 20), (33, 47)])
def test_evaluation_resizes_the_shorter_side_and_cuts_the_centre(height, width):
    image = picture(height, width)
    shorter = int(32 / 0.875)
    scaled = (shorter, int(shorter * width / height)) if height <= width else (int(shorter * height / width), shorter)
    resized = image.resize(scaled[::-1], FILTER)
    top, left = round((resized.height - 32) / 2), round((resized.width - 32) / 2)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32)))
    for form in ("PNG", "JPEG"):
        data = encoded(image, form)
        if form == "JPEG":
            whole = Image.open(io.BytesIO(data)).resize(resized.size, FILTER)
            expected = np.asarray(whole.crop((left, top, left + 32, top + 32)))
        np.testing.assert_array_equal(decode({"image": data}, Decode((32, 32)), "x")["image"], expected)


def test_training_cuts_and_resizes_as_pillow_does():
    image, settings = picture(), Decode((24, 40), interpolation="bilinear")
    for draw in range(20):
        randoms = uniforms(0, draw, RANDOMS)
        top, left, height, width = random_box(90, 120, settings.scale, settings.ratio, randoms)
        expected = image.crop((left, top, left + width, top + height)).resize((40, 24), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(decode({"image": encoded(image)}, settings, "x", randoms)["image"], np.asarray(expected))


def test_random_crops_have_the_areas_and_ratios_asked_for():
    boxes = np.array([random_box(400, 600, (0.2, 0.5), (0.8, 1.25), uniforms(1, draw, RANDOMS)) for draw in range(2000)])
    top, left, height, width = boxes.T
    area, ratio = height * width / 240_000, width / height
    assert 0.198 < area.min() < 0.202 and 0.498 < area.max() < 0.502 and abs(area.mean() - 0.35) < 0.005
    assert 0.79 < ratio.min() < 0.81 and 1.24 < ratio.max() < 1.26 and abs(np.log(ratio).mean()) < 0.01
    assert top.min() >= 0 and left.min() >= 0 and (top + height).max() <= 400 and (left + width).max() <= 600
    assert abs((top / (400 - height))[height < 380].mean() - 0.5) < 0.02 and abs((left / (600 - width)).mean() - 0.5) < 0.02


def test_a_crop_that_never_fits_is_the_centre():
    assert random_box(10, 1000, (0.9, 1.0), (0.75, 4 / 3), uniforms(0, 0, RANDOMS)) == (0, 493, 10, 13)
    assert random_box(1000, 10, (0.9, 1.0), (0.75, 4 / 3), uniforms(0, 0, RANDOMS)) == (493, 0, 13, 10)
    assert random_box(1, 1, (0.08, 1.0), (0.75, 4 / 3), uniforms(0, 0, RANDOMS)) == (0, 0, 1, 1)


def test_a_jpeg_is_decoded_no_finer_than_its_crop_needs(monkeypatch):
    sizes = []
    real = Image.Image.resize
    image = picture(800, 1200)
    data = encoded(image, "JPEG", quality=95)

    def resize(self, *args, box=None, **kwargs):
        sizes.append((self.size, box))
        return real(self, *args, box=box, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", resize)
    sizes.clear()
    settings = Decode((160, 160))
    scaled = set()
    for draw in range(40):
        randoms = uniforms(2, draw, RANDOMS)
        coarse = decode({"image": data}, settings, "x", randoms)["image"].astype(float)
        (size, box), = sizes
        sizes.clear()
        fine = decode({"image": data}, settings, "x", randoms, draft=False)["image"].astype(float)
        sizes.clear()
        assert box[2] - box[0] >= 160 and box[3] - box[1] >= 160  # still no smaller than the target
        height, width = random_box(800, 1200, settings.scale, settings.ratio, randoms)[2:]
        factor = next(factor for factor in (8, 4, 2, 1) if min(height, width) >= 160 * factor)
        assert abs(size[0] - width / factor) < 2 and abs(size[1] - height / factor) < 2  # what was decoded, cut to the crop
        scaled.add(factor)
        assert np.abs(coarse - fine).mean() < 1.5  # the same region
    assert scaled == {1, 2, 4}
    decode({"image": data}, settings, "x")
    assert sizes[0][0] == (1200, 800)  # evaluation decodes in full


def with_alpha():
    image = picture().convert("RGBA")
    image.putalpha(128)
    return image


FORMS = {
    "grey": (lambda: picture().convert("L"), "JPEG"),
    "cmyk": (lambda: picture().convert("CMYK"), "JPEG"),
    "palette": (lambda: picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "bilevel": (lambda: picture().convert("1"), "PNG"),
    "transparent": (with_alpha, "PNG"),
    "16 bits": (lambda: Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257), "PNG"),
    "gif": (picture, "GIF"),
    "bmp": (picture, "BMP"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_picture_becomes_the_channels_asked_for(form, channels):
    make, kind = FORMS[form]
    settings = Decode((90, 120), crop="none", channels=channels)
    result = decode({"image": encoded(make(), kind)}, settings, "x")["image"]
    assert result.shape == (90, 120, channels) and result.dtype == np.uint8
    if form in ("bilevel",):
        assert set(np.unique(result)) <= {0, 255}
        return
    expected = np.asarray(picture().convert("L" if channels == 1 or form in ("grey", "16 bits") else "RGB")).astype(float)
    expected = expected[..., None] if expected.ndim == 2 else expected
    assert np.abs(result - expected).mean() < 8


def test_boxes_and_masks_follow_every_geometry():
    # A white rectangle on black: its mask, its box and its pixels must still agree after each operation.
    image, mask = np.zeros((90, 120, 3), np.uint8), np.zeros((90, 120), np.int32)
    image[30:60, 40:90], mask[30:60, 40:90] = 255, 3
    record = {"image": image, "mask": mask, "boxes": np.array([[30, 40, 60, 90], [0, 0, 4, 4]]), "box_label": np.array([2, 5])}
    cases = [(Decode((64, 64)), None), (Decode((48, 80), crop="resize"), None)]
    cases += [(Decode((64, 64), scale=(0.3, 1.0)), uniforms(0, draw, RANDOMS)) for draw in range(12)]
    for settings, randoms in cases:
        result = decode(record, settings, "x", randoms)
        down, across = np.nonzero(result["mask"] == 3)
        extent = np.array([down.min(), across.min(), down.max() + 1, across.max() + 1])
        assert np.abs(result["boxes"][0] - extent).max() <= 0.5 + 1e-4
        assert ((result["image"][..., 0] > 127) != (result["mask"] == 3)).mean() < 0.03
        assert result["box_valid"][0] and result["boxes"].max() <= max(settings.image_size) and result["box_label"].tolist() == [2, 5]
    centre = decode(record, Decode((64, 64)), "x")
    assert not centre["box_valid"][1]  # the corner was cut off


def test_an_encoded_mask_is_decoded():
    mask = np.random.RandomState(0).randint(0, 9, (90, 120)).astype(np.uint8)
    result = decode({"image": encoded(picture()), "mask": encoded(Image.fromarray(mask))}, Decode((90, 120), crop="none"), "x")
    np.testing.assert_array_equal(result["mask"], mask)


def test_boxes_are_padded_to_a_fixed_number():
    record = {"image": encoded(picture()), "boxes": np.array([[0, 0, 10, 10], [5, 5, 20, 20]], np.float32), "box_label": np.array([1, 2])}
    result = decode(record, Decode((90, 120), crop="none", max_boxes=4), "x")
    assert result["boxes"].shape == (4, 4) and result["box_valid"].tolist() == [True, True, False, False]
    assert result["box_label"].tolist() == [1, 2, 0, 0]
    with pytest.raises(DataError, match=r"x has 2 boxes, more than data\.max_boxes = 1"):
        decode(record, Decode((90, 120), crop="none", max_boxes=1), "x")


def test_a_mask_of_another_size_and_a_picture_that_must_not_be_cropped_are_refused():
    with pytest.raises(DataError, match=r"mask of x has shape \(3, 4\), but its picture \(90, 120\)"):
        decode({"image": encoded(picture()), "mask": np.zeros((3, 4), int)}, Decode((9, 12), crop="resize"), "x")
    with pytest.raises(DataError, match="x is 90x120, but image_size is 90x100"):
        decode({"image": encoded(picture())}, Decode((90, 100), crop="none"), "x")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_truncated_picture_is_never_decoded_silently(form):
    data = encoded(picture(), form)
    for settings, randoms in ((Decode((32, 32)), None), (Decode((32, 32)), uniforms(0, 0, RANDOMS)), (Decode((90, 120), crop="none"), None)):
        for share in (0.02, 0.5, 0.9):
            with pytest.raises(Unreadable, match="photo cannot be decoded"):
                decode({"image": data[: int(len(data) * share)]}, settings, "photo", randoms)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"crop": "random"}, "did you mean 'random_resized'"),
        ({"interpolation": "cubic"}, "did you mean 'bicubic'"),
        ({"scale": (0.5, 0.1)}, "data.scale"),
        ({"ratio": (0.0, 1.0)}, "data.ratio"),
        ({"eval_crop": 1.5}, "data.eval_crop is 1.5"),
        ({"channels": 4}, "1 or 3 channels"),
        ({"image_size": (8, 8, 8)}, "image_size"),
    ],
)
def test_wrong_settings_are_one_line(settings, says):
    with pytest.raises(ConfigError, match=says):
        Decode(**{"image_size": (8, 8), **settings})
