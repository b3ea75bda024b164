import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.occlusion import drop_patches, permute_tiles, replace_patches, strangers, superimpose
from jaxvision.errors import ConfigError

KEY, ROW = jax.random.key(0), jnp.arange(12)
LABEL = jnp.arange(12) % 3
# Example i shows i + 1 everywhere, so a pixel says where it comes from.
FLAT = jnp.broadcast_to((jnp.arange(12.0) + 1)[:, None, None, None], (12, 8, 8, 1))


def test_strangers_are_valid_examples_of_another_class_and_belong_to_the_row():
    valid = jnp.arange(12) < 9
    drawn = strangers(KEY, ROW, LABEL, valid, 50)
    assert (LABEL[drawn] != LABEL[:, None]).all() and valid[drawn].all() and len(np.unique(drawn)) == 9
    order = jnp.roll(ROW, 5)
    np.testing.assert_array_equal(LABEL[order][strangers(KEY, order, LABEL[order], valid[order])] == LABEL[order][:, None], False)
    np.testing.assert_array_equal(strangers(KEY, ROW, LABEL * 0, valid)[:, 0], ROW)  # nobody else is there


def test_replaced_patches_are_as_many_as_asked_lie_on_the_grid_and_come_from_the_stranger():
    one = strangers(KEY, ROW, LABEL, ROW >= 0)
    image = np.asarray(replace_patches(KEY, FLAT, ROW, one, (4, 4), 0.3))
    changed = (image != FLAT)[..., 0].reshape(12, 4, 2, 4, 2)
    assert (changed.all((2, 4)) == changed.any((2, 4))).all() and (changed.all((2, 4)).sum((1, 2)) == 5).all()
    for i in range(12):
        assert set(np.unique(image[i])) == {i + 1, int(one[i, 0]) + 1}
    many = strangers(KEY, ROW, LABEL, ROW >= 0, 16)
    scattered = np.asarray(replace_patches(KEY, FLAT, ROW, many, (4, 4), 1.0))[:, ::2, ::2, 0].reshape(12, 16)
    np.testing.assert_array_equal(scattered, many + 1)


def test_dropped_patches_are_zero_and_as_many_as_asked():
    image = np.asarray(drop_patches(KEY, FLAT, ROW, (4, 4), 0.5))
    assert ((image == 0).sum((1, 2, 3)) == 32).all() and ((image == 0) | (image == FLAT)).all()


def test_permuted_tiles_are_the_same_tiles_in_another_order():
    image = jnp.broadcast_to((jnp.arange(4)[:, None] * 4 + jnp.arange(4)).repeat(2, 0).repeat(2, 1)[None, ..., None], (12, 8, 8, 1)).astype(float)
    moved = np.asarray(permute_tiles(KEY, image, ROW, 4))
    assert (np.sort(moved.reshape(12, -1)) == np.sort(np.asarray(image).reshape(12, -1))).all() and (moved != image).any((1, 2, 3)).all()
    tiles = moved.reshape(12, 4, 2, 4, 2)
    assert (tiles == tiles[:, :, :1, :, :1]).all()


def test_superimposed_objects_cover_between_a_tenth_and_three_tenths():
    big = jnp.broadcast_to((jnp.arange(12.0) + 1)[:, None, None, None], (12, 40, 40, 1))
    one = strangers(KEY, ROW, LABEL, ROW >= 0)[:, 0]
    image = np.asarray(superimpose(KEY, big, ROW, one))
    share = (image != big).mean((1, 2, 3))
    assert share.min() > 0.07 and share.max() < 0.32 and share.std() > 0.02
    assert all(set(np.unique(image[i])) == {i + 1, int(one[i]) + 1} for i in range(12))


def test_grids_that_do_not_divide_the_image_are_refused():
    for broken in (lambda: drop_patches(KEY, FLAT, ROW, (3, 3), 0.5), lambda: permute_tiles(KEY, FLAT, ROW, 3)):
        with pytest.raises(ConfigError, match="divide"):
            broken()
