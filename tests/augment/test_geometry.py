import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.geometry import flip, pad_crop, random_flip, shifted_crop

IMAGES = np.random.RandomState(0).randint(1, 256, (6, 5, 7, 2)).astype(np.uint8)


def test_flip_mirrors_the_chosen_examples_alone():
    where = np.array([1, 0, 0, 1, 1, 0], bool)
    ours = np.asarray(flip(IMAGES, where))
    assert np.array_equal(ours[where], IMAGES[where, :, ::-1]) and np.array_equal(ours[~where], IMAGES[~where])


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_shifted_crop_cuts_the_padded_image_at_the_corner(mode, numpy_mode):
    top, left = np.array([0, 1, 2, 3, 4, 2]), np.array([4, 0, 2, 1, 4, 3])
    ours = shifted_crop(IMAGES, top, left, padding=2, mode=mode)
    for one, image, y, x in zip(ours, IMAGES, top, left):
        assert np.array_equal(one, np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=numpy_mode)[y : y + 5, x : x + 7])


def test_draws_are_even_and_belong_to_the_row():
    count = 900
    mark = np.zeros((count, 3, 3, 1), np.uint8)
    mark[:, 1, 1] = 1
    row = np.random.RandomState(0).permutation(count)
    crop = jax.jit(lambda k, x, r: pad_crop(k, x, r, 1))
    inorder, shuffled = np.asarray(crop(jax.random.key(0), mark, jnp.arange(count))), np.asarray(crop(jax.random.key(0), mark, row))
    assert np.array_equal(inorder[row], shuffled)
    assert np.abs(inorder.mean(axis=0) - 1 / 9).max() < 0.04
    mark[:, 1, 1], mark[:, 1, 0] = 0, 1
    flipped = np.asarray(jax.jit(random_flip)(jax.random.key(0), mark, row))[:, 1, 2, 0]
    assert abs(flipped.mean() - 0.5) < 0.05
