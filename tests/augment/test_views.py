"""Views are drawn by key and global row alone, lie where torchvision's would, and show what a crop, a blur and a mirror should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image
from scipy.ndimage import gaussian_filter

from jaxvision.augment.randaugment import OPERATIONS
from jaxvision.augment.views import View, crop_boxes, gaussian_blur, make_views, random_resized_crop, read_views, resize_weights
from jaxvision.errors import ConfigError

ROW = jnp.arange(8)
PICTURES = jnp.asarray(np.random.RandomState(0).randint(0, 256, (8, 12, 16, 3)), jnp.uint8)
STATS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
FULL = {
    "size": (8, 8),
    "scale": (0.3, 1.0),
    "color_jitter": (0.4, 0.4, 0.2, 0.1),
    "grey": 0.2,
    "blur": 0.5,
    "solarize": 0.2,
    "erasing": 0.5,
}


@pytest.fixture(scope="module")
def views():
    return read_views(FULL, ({"count": 2}, {"count": 2, "size": 6, "scale": (0.05, 0.3)}), (8, 8))


def test_views_are_a_function_of_key_and_row_and_the_same_on_eight_devices(views):
    make = lambda image, row: make_views(jax.random.key(3), image, row, views, **STATS)
    mesh = Mesh(np.asarray(jax.devices()[:8]), ("data",))
    rows = NamedSharding(mesh, P("data"))
    cut = jax.jit(make, in_shardings=(rows, rows), out_shardings=rows)(*jax.device_put((PICTURES, ROW), rows))
    whole = jax.jit(make)(PICTURES, ROW)
    assert [view.shape for view in whole] == [(8, 8, 8, 3)] * 2 + [(8, 6, 6, 3)] * 2
    for a, b in zip(whole, cut):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert all(np.isfinite(view).all() for view in whole)
    assert np.abs(whole[0] - whole[1]).max() > 0.5  # two views differ
    turned = jax.jit(make)(PICTURES[::-1], ROW[::-1])
    np.testing.assert_allclose(turned[0][::-1], whole[0], atol=2e-5)


def test_a_crop_is_what_pillow_resizes():
    view = View((7, 9), (0.2, 0.6))
    key, mirrored = jax.random.key(1), ROW % 2 == 0
    ours = random_resized_crop(key, PICTURES, ROW, view, mirrored)
    for i, (top, left, h, w) in enumerate(zip(*(np.asarray(side) for side in crop_boxes(key, ROW, (12, 16), view.scale, view.ratio)))):
        # In Pillow's mode "F" nothing is rounded.
        cut = np.asarray(PICTURES[i, top : top + h, left : left + w], np.float32)
        theirs = [np.asarray(Image.fromarray(cut[..., c]).resize((9, 7), Image.Resampling.BICUBIC)) for c in range(3)]
        mine = ours[i, :, ::-1] if mirrored[i] else ours[i]
        np.testing.assert_allclose(mine, np.clip(np.stack(theirs, -1), 0, 255), atol=0.01)


def test_boxes_have_the_asked_areas_and_ratios_and_the_centre_when_none_fits():
    row = jnp.arange(4000)
    top, left, h, w = (np.asarray(side) for side in crop_boxes(jax.random.key(0), row, (100, 100), (0.2, 0.5), (3 / 4, 4 / 3)))
    area, ratio = h * w / 1e4, w / h
    assert 0.18 < area.min() and area.max() < 0.52 and abs(area.mean() - 0.35) < 0.01
    assert abs(np.log(ratio).mean()) < 0.02 and 0.7 < ratio.min() and ratio.max() < 1.4
    assert top.min() == left.min() == 0 and (top + h).max() == (left + w).max() == 100
    # Nothing of a tall picture has these ratios and this area: the widest central box that the ratio allows.
    top, left, h, w = (np.asarray(side) for side in crop_boxes(jax.random.key(0), row[:4], (100, 10), (0.9, 1.0), (3 / 4, 4 / 3)))
    assert (h == 13).all() and (w == 10).all() and (left == 0).all() and (top == 43).all()


def test_weights_of_a_whole_picture_at_its_own_size_are_the_identity():
    for interpolation in ("bilinear", "bicubic"):
        np.testing.assert_allclose(resize_weights(0, 6, 6, 6, interpolation), np.eye(6), atol=1e-6)


def test_the_blur_is_a_gaussian_with_repeated_border():
    image, sigma = PICTURES.astype(jnp.float32), jnp.linspace(0.2, 2.0, 8)
    ours = gaussian_blur(image, sigma, 2.0)
    for i in range(8):
        theirs = gaussian_filter(np.asarray(image[i], np.float64), (float(sigma[i]),) * 2 + (0,), mode="nearest", truncate=6 / float(sigma[i]))
        np.testing.assert_allclose(ours[i], theirs, atol=0.02)


def test_a_probability_of_one_acts_on_every_picture_and_of_zero_on_none():
    plain = View((12, 16), (1.0, 1.0), (4 / 3, 4 / 3), flip=0.0, interpolation="bilinear")
    unchanged = plain(jax.random.key(0), PICTURES, ROW, **STATS)
    np.testing.assert_allclose(unchanged, (PICTURES / 255.0 - 0.5) / 0.25, atol=1e-4)
    grey = View((12, 16), (1.0, 1.0), (4 / 3, 4 / 3), flip=0.0, grey=1.0)(jax.random.key(0), PICTURES, ROW, **STATS)
    assert np.ptp(np.asarray(grey), axis=-1).max() < 1e-4
    dark = View((12, 16), (1.0, 1.0), (4 / 3, 4 / 3), flip=1.0, solarize=1.0)(jax.random.key(0), PICTURES, ROW, **STATS)
    assert float(dark.max()) < 0.01 and np.abs(np.asarray(dark[:, :, ::-1]) - np.asarray(dark)).max() > 1


@pytest.mark.parametrize(
    "shared, groups, message",
    [
        ({"gray": 0.2}, ({"count": 2},), "the key 'gray' is unknown; did you mean 'grey'"),
        ({"scale": (0.5, 0.2)}, ({"count": 2},), "scale is .* smallest <= largest"),
        ({"blur": 2}, ({"count": 2},), "blur is 2, must be a probability"),
        ({"color_jitter": (0.4, 0.4)}, ({"count": 2},), "one strength, three"),
        ({"randaugment": ("rand-m8", ("Rotat",))}, ({"count": 2},), "the operation 'Rotat' is unknown"),
        ({}, ({"count": 1},), "at least two are compared"),
    ],
)
def test_a_wrong_setting_is_one_line(shared, groups, message):
    with pytest.raises(ConfigError, match=message):
        read_views(shared, groups, (8, 8))


def test_randaugment_draws_from_the_named_operations_alone():
    (view, _) = read_views({"randaugment": ("rand-m8-p1-inc1", ("Rotate", "Sharpness"))}, ({"count": 2},), (8, 8))
    drawn = view.randaugment.draw(jax.random.key(0), jnp.arange(64), 8.0)
    assert {OPERATIONS[i] for layer in drawn for i in layer.operation.tolist()} == {"Rotate", "Sharpness"}
