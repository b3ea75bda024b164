import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.volume import PROBABILITIES, VolumeAugment, make_volume_augment, rotation
from jaxvision.errors import ConfigError


def always(augment, key=0, volume=None, mask=None):
    """The augmentation with every change happening."""
    volume = np.random.RandomState(0).normal(size=(2, 8, 9, 10, 1)).astype(np.float32) if volume is None else volume
    mask = (volume[..., 0] > 1).astype(np.int32) if mask is None else mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxvision.augment.volume.PROBABILITIES", dict.fromkeys(PROBABILITIES, 1.0))
        return volume, *map(np.asarray, jax.jit(augment)(jax.random.key(key), volume, mask, jnp.arange(len(volume))))


def test_volume_and_mask_are_mirrored_alike_along_the_given_axes_only():
    seen = set()
    for key in range(12):
        volume, made, mask = always(VolumeAugment(flip=(0, 2)), key)
        np.testing.assert_array_equal(mask, made[..., 0] > 1)
        for one, other in zip(volume, made):
            seen.add(next(axes for axes in ((), (0,), (2,), (0, 2)) if np.array_equal(np.flip(one, axes), other)))
    assert seen == {(), (0,), (2,), (0, 2)}


def test_a_turn_is_rigid_in_millimetres_and_takes_the_mask_along():
    d, h, w = np.indices((16, 32, 32))
    # A ball of 12 mm, in voxels that are 2 mm thick: turned about any axis it stays where it is.
    ball = ((2 * (d - 7.5)) ** 2 + (h - 15.5) ** 2 + (w - 15.5) ** 2 < 144).astype(np.float32)
    volume = np.stack([ball] * 2)[..., None]
    _, made, mask = always(VolumeAugment(rotate=(0.0, 60.0, 60.0), aspect=(2.0, 1.0, 1.0)), 3, volume, volume[..., 0].astype(np.int32))
    wrong = always(VolumeAugment(rotate=(0.0, 60.0, 60.0)), 3, volume, volume[..., 0].astype(np.int32))[2]
    errors = [np.abs(x - ball).mean() / ball.mean() for x in (mask, made[..., 0], wrong)]
    assert errors[0] < 0.15 and errors[1] < 0.2 and errors[2] > 1.5 * errors[0], errors
    assert np.allclose(rotation(jnp.array([0.3, -0.2, 0.5])) @ rotation(jnp.array([0.3, -0.2, 0.5])).T, np.eye(3), atol=1e-6)


def test_a_larger_scale_makes_larger_organs():
    d, h, w = np.indices((8, 16, 16))
    ball = ((d - 3.5) ** 2 + (h - 7.5) ** 2 + (w - 7.5) ** 2 < 9).astype(np.float32)[None]
    grown = always(VolumeAugment(scale=(1.3, 1.3001)), 0, ball[..., None], ball.astype(np.int32))[2]
    assert grown.sum() / ball.sum() == pytest.approx(1.3**3, rel=0.2)


def test_intensities_change_and_masks_do_not():
    for settings in ({"noise": 0.1}, {"blur": (0.5, 1.0)}, {"brightness": 0.25}, {"contrast": 0.25}, {"gamma": (0.7, 1.5)}):
        volume, made, mask = always(VolumeAugment(**settings))
        assert np.array_equal(mask, volume[..., 0] > 1) and 1e-3 < np.abs(made - volume).mean() < 0.8, settings
        if "gamma" in settings:
            assert np.allclose(made.mean((1, 2, 3)), volume.mean((1, 2, 3)), atol=1e-3)
            assert np.allclose(made.std((1, 2, 3)), volume.std((1, 2, 3)), atol=1e-2)


def test_draws_belong_to_the_example_and_not_to_its_place():
    augment, key = VolumeAugment(flip=(0, 1, 2), noise=0.1), jax.random.key(1)
    volume = np.random.RandomState(0).normal(size=(4, 6, 6, 6, 1)).astype(np.float32)
    mask = np.zeros(volume.shape[:4], np.int32)
    whole, _ = jax.jit(augment)(key, volume, mask, jnp.arange(4))
    half, _ = jax.jit(augment)(key, volume[2:], mask[2:], jnp.arange(2, 4))
    np.testing.assert_allclose(whole[2:], half, atol=1e-6)


def test_settings_are_read_and_wrong_ones_named():
    made = make_volume_augment({"flip": True, "rotate": 30, "scale": (0.7, 1.4), "noise": 0}, (2.0, 1.0, 1.0))
    assert (made.flip, made.rotate, made.scale, made.noise, made.aspect) == ((0, 1, 2), (30.0,) * 3, (0.7, 1.4), 0.0, (2.0, 1.0, 1.0))
    for wrong in ({"rotat": 3}, {"scale": 0.5}, {"flip": (3,)}, {"blur": (0.5,)}):
        with pytest.raises(ConfigError, match=f"augment.{next(iter(wrong))}"):
            make_volume_augment(wrong, None)
