import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.degrade import make_degrade, quantize
from jaxvision.augment.geometry import dihedral, random_window
from jaxvision.augment.jpeg import jpeg
from jaxvision.augment.real_world import RADIUS, filter_each, real_world, resize_each, ringing_kernel
from jaxvision.errors import ConfigError
from jaxvision.kernels.block_resize import average_pool
from jaxvision.nn.resize import bicubic, resize_matrix


def picture(count=2, height=24, width=32):
    y, x = np.mgrid[:height, :width]
    smooth = 0.5 + 0.3 * np.sin(x / 5)[..., None] * np.cos(y / 4)[..., None] * [1.0, 0.5, -0.5]
    return jnp.asarray(np.stack([smooth + 0.02 * n for n in range(count)]), jnp.float32)


ROWS = jnp.arange(2)
KEY = jax.random.key(0)


def test_bicubic_and_pooled_pictures_are_rounded_like_files():
    x = picture()
    small = make_degrade(("bicubic",), 4)(KEY, x, ROWS)
    np.testing.assert_allclose(small, quantize(bicubic(x, (6, 8))), atol=1e-7)
    assert np.abs(np.asarray(small) * 255 - np.round(np.asarray(small) * 255)).max() < 1e-3
    np.testing.assert_allclose(make_degrade(("average",), 4, rounded=False)(KEY, x, ROWS), average_pool(x, 4), atol=1e-7)


def test_noise_has_its_strength_and_belongs_to_the_row():
    x = jnp.full((4, 40, 40, 3), 0.5)
    noisy = make_degrade((("noise", 0.05),), 1, rounded=False)
    made = noisy(KEY, x, jnp.arange(4))
    assert float((made - x).std()) == pytest.approx(0.05, rel=0.03)
    np.testing.assert_array_equal(noisy(KEY, x[:1], jnp.asarray([2]))[0], made[2])
    ranged = make_degrade((("noise", 0.0, 0.1),), 1, rounded=False)(KEY, x, jnp.arange(4))
    deviations = np.asarray((ranged - x).std((1, 2, 3)))
    assert np.ptp(deviations) > 0.01 and deviations.max() < 0.11


def test_blur_is_a_gaussian_that_keeps_the_sum():
    point = jnp.zeros((1, 41, 41, 1)).at[0, 20, 20].set(1.0)
    made = np.asarray(make_degrade((("blur", 2.0),), 1, rounded=False)(KEY, point, ROWS[:1]))[0, ..., 0]
    assert made.sum() == pytest.approx(1, abs=1e-5)
    place = np.arange(41) - 20
    assert (made.sum(1) * place**2).sum() == pytest.approx(4.0, rel=0.01)
    flat = make_degrade((("blur", 3.0),), 1, rounded=False)(KEY, jnp.full((1, 9, 9, 1), 0.7), ROWS[:1])
    np.testing.assert_allclose(flat, 0.7, atol=1e-6)


def test_jpeg_is_within_a_few_grey_levels_of_pillow_at_a_quality_an_image():
    from PIL import Image

    x = quantize(picture())
    ours = np.asarray(jpeg(x, jnp.asarray([20, 90])))
    for row, quality in enumerate((20, 90)):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(x[row] * 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(buffer)).astype(np.float32)
        assert np.abs(ours[row] * 255 - theirs).mean() < 2.5
    error = np.square(ours - np.asarray(x)).mean((1, 2, 3))
    assert error[0] > 3 * error[1]


def test_filters_of_each_image_are_convolutions_with_mirrored_borders():
    from scipy.ndimage import convolve

    rng = np.random.RandomState(0)
    x, kernels = rng.uniform(size=(2, 12, 15, 2)).astype(np.float32), rng.uniform(size=(2, 7, 7)).astype(np.float32)
    ours = filter_each(jnp.asarray(x), jnp.asarray(kernels))
    for row, channel in np.ndindex(2, 2):
        np.testing.assert_allclose(ours[row, ..., channel], convolve(x[row, ..., channel], kernels[row], mode="reflect"), rtol=1e-4, atol=1e-4)


def test_the_ringing_filter_passes_low_frequencies_alone():
    from scipy.special import j1

    kernel = np.asarray(ringing_kernel(jnp.float32(np.pi / 3), jnp.asarray(21)))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    r = 5.0
    expected = (np.pi / 3) * j1(np.pi / 3 * r) / (2 * np.pi * r)
    assert kernel[RADIUS, RADIUS + 5] / kernel[RADIUS, RADIUS] == pytest.approx(expected / ((np.pi / 3) ** 2 / (4 * np.pi)), rel=1e-3)


def test_resizing_on_a_canvas_is_resizing_in_the_corner():
    x = picture()
    old, new = jnp.asarray([[24, 32]] * 2), jnp.asarray([[10, 16], [24, 32]])
    made = resize_each(x, old, new, jnp.asarray([True, True]), (32, 40))
    rows, columns = resize_matrix(24, 10, border="cut"), resize_matrix(32, 16, border="cut")
    np.testing.assert_allclose(made[0, :10, :16], np.einsum("ph,hwc,qw->pqc", rows, np.asarray(x[0]), columns), atol=1e-5)
    np.testing.assert_allclose(made[1, :24, :32], x[1], atol=1e-5)
    np.testing.assert_allclose(made[0, 10:, :16], np.broadcast_to(made[0, 9:10, :16], (22, 16, 3)), atol=1e-6)


def test_the_real_world_chain_damages_each_picture_differently_and_only_by_its_row():
    x = jnp.broadcast_to(picture(1), (3, 24, 32, 3))
    chain = jax.jit(lambda x, row: real_world(KEY, x, row, 2))
    made = chain(x, jnp.arange(3))
    assert made.shape == (3, 12, 16, 3) and float(made.min()) >= 0 and float(made.max()) <= 1
    plain = bicubic(x, (12, 16))
    error = np.asarray(jnp.abs(made - plain).mean((1, 2, 3)))
    assert (error > 0.005).all() and (error < 0.25).all() and np.ptp(error) > 1e-4
    np.testing.assert_allclose(chain(x, jnp.asarray([2, 1, 0]))[0], made[2], atol=1e-5)


def test_windows_lie_inside_and_symmetries_are_the_eight_of_the_square():
    x = jnp.arange(400.0).reshape(1, 20, 20, 1)
    cut = np.asarray(random_window(KEY, jnp.tile(x, (64, 1, 1, 1)), jnp.arange(64), (18, 18)))[..., 0]
    corners = {(int(c[0, 0]) // 20, int(c[0, 0]) % 20) for c in cut}
    assert len(corners) == 9 and all(c[-1, -1] - c[0, 0] == 17 * 20 + 17 for c in cut)
    square = jnp.asarray([[0.0, 1], [2, 3]]).reshape(1, 2, 2, 1)
    turned = np.asarray(dihedral(KEY, jnp.tile(square, (96, 1, 1, 1)), jnp.arange(96))).reshape(96, 4)
    assert len({tuple(row) for row in turned}) == 8
    wide = np.asarray(dihedral(KEY, jnp.tile(x[:, :2, :3], (96, 1, 1, 1)), jnp.arange(96))).reshape(96, 6)
    assert len({tuple(row) for row in wide}) == 4


@pytest.mark.parametrize(
    "recipe, scale, named",
    [
        (("bicubik",), 2, "'bicubic'"),
        ((), 2, "exactly one step that makes the picture smaller"),
        (("bicubic",), 1, "no step that makes"),
        ((("noise",),), 1, "takes one strength"),
        ((("jpeg", 0, 50),), 1, r"1\.\.100"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line(recipe, scale, named):
    with pytest.raises(ConfigError, match=named):
        make_degrade(recipe, scale)
    with pytest.raises(ConfigError, match="25 x 32 do not shrink by 2"):
        make_degrade(("bicubic",), 2)(KEY, jnp.zeros((1, 25, 32, 3)), ROWS[:1])
