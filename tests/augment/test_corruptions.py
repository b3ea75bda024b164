import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from jaxvision.augment.corruptions import CORRUPTIONS, corrupt
from jaxvision.errors import ConfigError

KEY = jax.random.key(0)


def photograph(height=16, width=24):
    """A colour picture with slopes, an edge and a texture, (1, H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([8 * x, 10 * y, 40 + 60 * (x > width // 2)], -1) + 20 * ((x // 2 + y // 2) % 2)[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)[None]


def corrupted(image, name, severity, row=None):
    return np.asarray(corrupt(KEY, jnp.asarray(image), jnp.arange(len(image)) if row is None else jnp.asarray(row), name=name, severity=severity))


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_every_corruption_changes_a_picture_more_at_severity_5_than_at_1(name):
    image = np.concatenate([photograph()] * 2)
    change = [np.abs(corrupted(image, name, severity).astype(float) - image).mean() for severity in (1, 5)]
    assert change[1] > max(change[0], 1.0) and change[0] < 40


def test_draws_belong_to_the_row_of_an_example():
    image = np.concatenate([photograph()] * 3)
    whole = corrupted(image, "gaussian_noise", 3)
    assert (whole[0] != whole[1]).any()
    np.testing.assert_array_equal(corrupted(image[:1], "gaussian_noise", 3, [2]), whole[2:])


def test_noise_has_the_published_deviation():
    grey = np.full((1, 64, 64, 3), 128, np.uint8)  # a side of 64 takes the table of large images
    for name, deviation in (("gaussian_noise", 0.12), ("shot_noise", (0.5 / 25) ** 0.5)):
        noise = (corrupted(grey, name, 2).astype(float) - 127.5) / 255
        assert noise.std() == pytest.approx(deviation, rel=0.03)
    share = (corrupted(grey, "impulse_noise", 5) != 128).mean()
    assert share == pytest.approx(0.27, abs=0.015)


def test_pixelate_is_pillows_box_filter_down_and_up():
    image = photograph(40, 32)
    small = Image.fromarray(image[0]).resize((int(32 * 0.75), int(40 * 0.75)), Image.Resampling.BOX)
    expected = np.asarray(small.resize((32, 40), Image.Resampling.BOX), float)
    assert np.abs(corrupted(image, "pixelate", 4)[0] - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", [1, 5])
def test_jpeg_is_pillows_within_a_few_grey_levels(channels, severity):
    image = load_sample_image("china.jpg")[None, 200:239, 300:355, :channels]  # sides that are multiples of nothing
    buffer = io.BytesIO()
    Image.fromarray(image[0] if channels == 3 else image[0, ..., 0]).save(buffer, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
    expected = np.asarray(Image.open(buffer), float).reshape(image.shape[1:])
    ours = corrupted(image, "jpeg", severity)[0].astype(float)
    assert np.abs(ours - expected).mean() < 1.0
    assert np.abs(ours - expected).mean() < 0.3 * np.abs(image[0] - expected).mean()


def test_contrast_keeps_the_mean_and_brightness_the_hue():
    image = photograph()
    faded = corrupted(image, "contrast", 2).astype(float)
    np.testing.assert_allclose(faded.mean((1, 2)), image.mean((1, 2)), atol=1)
    np.testing.assert_allclose(faded.std((1, 2)), image.std((1, 2)) / 2, rtol=0.02)
    lit = corrupted(np.asarray([[[[100, 50, 0]]]], np.uint8), "brightness", 3)
    np.testing.assert_allclose(lit[0, 0, 0], [138, 69, 0], atol=1)


def test_a_blur_leaves_a_flat_picture_as_it_is():
    flat = np.full((1, 8, 8, 1), 90, np.uint8)
    for name in ("defocus_blur", "motion_blur", "zoom_blur"):
        assert np.abs(corrupted(flat, name, 5).astype(int) - 90).max() <= 1


def test_what_is_wrong_is_said_in_one_line():
    with pytest.raises(ConfigError, match="did you mean 'fog'"):
        corrupted(photograph(), "fogg", 1)
    with pytest.raises(ConfigError, match="1 to 5, got 6"):
        corrupted(photograph(), "fog", 6)
    with pytest.raises(ConfigError, match="not float32"):
        corrupted(photograph().astype(np.float32), "fog", 1)
