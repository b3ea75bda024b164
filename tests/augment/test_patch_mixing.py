import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.patch_mixing import mix_patches, patch_masks, patch_mixing
from jaxvision.errors import ConfigError

IMAGES = np.random.RandomState(0).randn(6, 28, 28, 1).astype(np.float32)
LABELS = np.eye(6, dtype=np.float32)
masks = jax.jit(patch_masks, static_argnums=2)


def test_masks_have_exactly_the_patches_asked_for_at_even_places():
    ours = np.asarray(masks(jax.random.key(0), jnp.arange(800), (7, 7), 13))
    assert np.all(ours.sum(axis=(1, 2)) == 13)
    assert np.abs(ours.mean(axis=0) - 13 / 49).max() < 0.07
    assert len(np.unique(ours, axis=0)) == 800


def test_mixing_equals_a_loop_over_patches():
    mask = np.asarray(masks(jax.random.key(1), jnp.arange(6), (7, 7), 20))
    expected = IMAGES.copy()
    for b, y, x in zip(*np.nonzero(mask)):
        expected[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = IMAGES[5 - b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
    image, label = mix_patches(IMAGES, LABELS, mask)
    assert np.array_equal(image, expected)
    np.testing.assert_allclose(label, LABELS * (29 / 49) + LABELS[::-1] * (20 / 49), atol=1e-6)


def test_no_patches_give_the_image_and_all_patches_its_partner():
    for count, image, label in ((0, IMAGES, LABELS), (49, IMAGES[::-1], LABELS[::-1])):
        ours = mix_patches(IMAGES, LABELS, masks(jax.random.key(0), jnp.arange(6), (7, 7), count))
        assert np.array_equal(ours[0], image) and np.array_equal(ours[1], label)


def test_a_draw_uses_one_whole_number_of_patches_for_the_batch():
    draw = jax.jit(lambda k: patch_mixing(k, IMAGES, LABELS))
    shares = []
    for seed in range(5):
        image, label = draw(jax.random.key(seed))
        swapped = np.asarray(image != IMAGES).mean(axis=(1, 2, 3))
        assert np.ptp(swapped) == 0 and abs(swapped[0] * 49 - round(swapped[0] * 49)) < 1e-4
        np.testing.assert_allclose(label, LABELS * (1 - swapped[0]) + LABELS[::-1] * swapped[0], atol=1e-6)
        shares.append(swapped[0])
    assert len(set(shares)) > 1


def test_a_grid_that_does_not_divide_the_image_is_an_error():
    with pytest.raises(ConfigError, match="does not divide"):
        mix_patches(IMAGES, LABELS, np.zeros((6, 8, 8), bool))
