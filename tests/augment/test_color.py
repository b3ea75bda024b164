import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ImageEnhance, ImageOps

from jaxvision.augment import color
from tests.augment.pictures import by_pillow, pictures

IMAGES = pictures()
FLOATS = IMAGES.astype(np.float32)
ARGUMENTS = np.array([0.1, 0.55, 1.0, 1.45, 1.9], np.float32)


def grey_levels_off(ours, reference):
    return np.abs(np.asarray(ours).astype(int) - reference.astype(int)).max()


@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "sharpness"])
def test_enhancements_agree_with_pillow_to_one_grey_level(name):
    blend = jax.jit(getattr(color, name))
    enhance = getattr(ImageEnhance, name.capitalize())
    for factor in ARGUMENTS:
        ours = blend(FLOATS, jnp.full(len(IMAGES), factor))
        assert grey_levels_off(ours, by_pillow(IMAGES, lambda image: enhance(image).enhance(float(factor)))) <= 1


def test_autocontrast_equals_pillow_save_where_a_whole_quotient_was_rounded_down():
    ours, theirs = np.asarray(jax.jit(color.autocontrast)(FLOATS)), by_pillow(IMAGES, ImageOps.autocontrast)
    low, high = (end(IMAGES.astype(int), axis=(1, 2), keepdims=True) for end in (np.min, np.max))
    whole = (IMAGES - low) * 255 % np.maximum(high - low, 1) == 0
    assert np.array_equal(ours[~whole], theirs[~whole]) and grey_levels_off(ours, theirs) <= 1


@pytest.mark.parametrize("name", ["equalize", "invert"])
def test_operations_without_argument_equal_pillow(name):
    ours = jax.jit(getattr(color, name))(FLOATS)
    assert grey_levels_off(ours, by_pillow(IMAGES, getattr(ImageOps, name))) == 0


def test_equalize_by_products_equals_pillow():
    assert grey_levels_off(jax.jit(color.equalize_by_products)(FLOATS), by_pillow(IMAGES, ImageOps.equalize)) == 0


def test_posterize_equals_pillow_with_one_argument_an_example():
    bits = [1, 3, 4, 7, 8]
    ours = jax.jit(color.posterize)(FLOATS, jnp.asarray(bits, jnp.float32))
    for one, image, kept in zip(ours, IMAGES, bits):
        assert grey_levels_off(one, by_pillow(image[None], lambda x: ImageOps.posterize(x, kept))[0]) == 0
    assert np.all(color.posterize(FLOATS, jnp.zeros(5)) == 0)


def test_solarize_equals_pillow_and_its_ends_are_invert_and_identity():
    thresholds = [0, 26, 128, 255, 256]
    ours = jax.jit(color.solarize)(FLOATS, jnp.asarray(thresholds, jnp.float32))
    for one, image, threshold in zip(ours, IMAGES, thresholds):
        assert grey_levels_off(one, by_pillow(image[None], lambda x: ImageOps.solarize(x, threshold))[0]) == 0
    assert np.array_equal(ours[0], 255 - FLOATS[0]) and np.array_equal(ours[4], FLOATS[4])


def test_solarize_add_lifts_dark_values_alone():
    add = np.array([0, 40, 99, 110, 128], np.float32)
    ours = jax.jit(color.solarize_add)(FLOATS, add)
    shifted = IMAGES.astype(int) + add.astype(int)[:, None, None, None]
    assert grey_levels_off(ours, np.where(IMAGES < 128, np.minimum(shifted, 255), IMAGES)) == 0


def test_grey_images_equal_pillow_and_skip_color():
    grey = IMAGES[..., :1]
    assert grey_levels_off(jax.jit(color.equalize)(grey.astype(np.float32))[..., 0], by_pillow(grey[..., 0], ImageOps.equalize)) == 0
    assert np.array_equal(color.color(grey.astype(np.float32), jnp.full(5, 0.3)), grey)


def test_hue_turns_as_in_hsv():
    pixels = FLOATS[1, :3, :4].reshape(1, 1, 12, 3) / 255
    turned = np.asarray(color.shift_hue(pixels, jnp.asarray([0.3])))[0, 0]
    for ours, (r, g, b) in zip(turned, pixels[0, 0]):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        np.testing.assert_allclose(ours, colorsys.hsv_to_rgb((h + 0.3) % 1, s, v), atol=1e-6)


def jitter_by_definition(image, order, arguments):
    x = image / 255
    for i in order:
        luma = (x * [0.2989, 0.587, 0.114]).sum(-1, keepdims=True)
        if i == 3:
            turned = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3)]
            x = np.array([colorsys.hsv_to_rgb((h + arguments[3]) % 1, s, v) for h, s, v in turned]).reshape(x.shape)
        else:
            other = (0.0, luma.mean(), luma)[i]
            x = np.clip(other + arguments[i] * (x - other), 0, 1)
    return x * 255


def test_jitter_applies_each_example_s_operations_in_its_own_order():
    orders = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1], [0, 3, 1, 2]])
    arguments = np.array([[1.3, 0.6, 1.4, 0.1], [0.7, 1.4, 0.5, -0.2], [1.2, 0.8, 1.3, 0.05], [0.9, 1.1, 0.6, 0.4], [1.4, 1.4, 1.4, -0.1]])
    ours = jax.jit(lambda x, o, a: color.jitter(x, o, a, names=color.JITTERS))(FLOATS, orders, arguments.astype(np.float32))
    for one, image, order, argument in zip(ours, FLOATS, orders, arguments):
        np.testing.assert_allclose(one, jitter_by_definition(image, order, argument), atol=2e-2)


def test_jitter_draws_orders_evenly_and_arguments_from_their_ranges():
    strengths = {"brightness": 0.4, "contrast": 1.5, "hue": 0.1}
    order, argument = (np.asarray(x) for x in jax.jit(lambda k: color.draw_jitter(k, jnp.arange(3000), strengths))(jax.random.key(0)))
    counts = np.unique(order, axis=0, return_counts=True)[1]
    assert len(counts) == 6 and np.abs(counts / 3000 - 1 / 6).max() < 0.03
    np.testing.assert_allclose(argument.min(axis=0), [0.6, 0, -0.1], atol=0.01)
    np.testing.assert_allclose(argument.max(axis=0), [1.4, 2.5, 0.1], atol=0.01)


def test_color_jitter_without_strength_changes_nothing():
    assert np.array_equal(color.color_jitter(jax.random.key(0), FLOATS, jnp.arange(5)), FLOATS)
