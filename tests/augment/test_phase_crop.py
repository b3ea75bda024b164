"""What a phase does to the images of a step: where in the order of the augmentation, and what evaluation sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment import make_augment
from jaxvision.augment.mix import mix_batch
from jaxvision.augment.resize import lanczos
from jaxvision.augment.spectrum import low_frequency_crop
from jaxvision.errors import ConfigError

GREY = {"mean": (0.3,), "std": (0.4,)}
IMAGES = np.random.RandomState(0).randint(0, 256, (8, 12, 12, 1)).astype(np.uint8)
KEY, ROW = jax.random.key(1), jnp.arange(8)


def test_the_spectrum_is_cropped_after_erasing_and_the_resize_comes_before_normalizing():
    settings = {"flip": True, "erasing": 0.9}
    full, spectrum, resized = (make_augment(settings, **GREY, size=(8, 8), crop=crop) for crop in ("", "spectrum", "resize"))
    np.testing.assert_allclose(spectrum.image(KEY, IMAGES, ROW), low_frequency_crop(full.image(KEY, IMAGES, ROW), 8), atol=1e-6)
    flipped = make_augment({"flip": True}, mean=(0.0,), std=(1.0,)).image(KEY, IMAGES, ROW)
    small = lanczos(np.round(np.asarray(flipped) * 255).astype(np.uint8), (8, 8))
    plain = make_augment({"flip": True}, **GREY, size=(8, 8), crop="resize")
    np.testing.assert_allclose(plain.image(KEY, IMAGES, ROW), (np.asarray(small) / 255 - 0.3) / 0.4, atol=1e-5)
    assert resized.image(KEY, IMAGES, ROW).shape == (8, 8, 8, 1)


def test_evaluation_sees_the_size_of_the_phase():
    spectrum, resized = (make_augment({}, **GREY, size=(8, 8), crop=crop) for crop in ("spectrum", "resize"))
    np.testing.assert_allclose(spectrum.normalize(IMAGES), low_frequency_crop((IMAGES / 255 - 0.3) / 0.4, 8), atol=1e-5)
    np.testing.assert_allclose(resized.normalize(IMAGES), (np.asarray(lanczos(IMAGES, (8, 8))) / 255 - 0.3) / 0.4, atol=1e-5)


def test_no_gradient_passes_the_crop():
    crop = make_augment({}, **GREY, size=(8, 8), crop="spectrum")
    assert float(jnp.abs(jax.grad(lambda x: crop.normalize(x).sum())(IMAGES / 255)).max()) == 0


def kinds(**settings):
    """Share of batches whose labels were mixed by whole patches of a 3x3 grid."""
    image, label = jnp.asarray(IMAGES, jnp.float32), jnp.eye(8)
    mixed = jax.jit(lambda k: mix_batch(k, image, label, patch_alpha=1.0, patch_grids=((3, 3),), **settings)[1][0, 0])
    own = np.array([float(mixed(key)) for key in jax.random.split(jax.random.key(0), 200)])
    return np.mean(np.abs(own * 9 - np.round(own * 9)) < 1e-4), np.mean(own == 1)


def test_patch_mixing_takes_an_equal_part_in_the_lottery():
    alone, _ = kinds(mixup_alpha=0.0, cutmix_alpha=0.0)
    third, untouched = kinds(mixup_alpha=1.0, cutmix_alpha=0.0)
    assert alone == 1 and 0.4 < third < 0.6 and untouched < 0.1
    assert kinds(mixup_alpha=0.0, cutmix_alpha=0.0, probability=0.0) == (1.0, 1.0)


def test_one_of_several_grids_is_drawn():
    image, label = jnp.asarray(IMAGES, jnp.float32), jnp.eye(8)
    mixed = jax.jit(lambda k: mix_batch(k, image, label, mixup_alpha=0.0, cutmix_alpha=0.0, patch_alpha=1.0, patch_grids=((2, 2), (3, 3)))[1][0, 0])
    own = np.array([float(mixed(key)) for key in jax.random.split(jax.random.key(0), 60)])
    quarters, ninths = ((np.abs(own * n - np.round(own * n)) < 1e-4) & (0 < own) & (own < 1) for n in (4, 9))
    assert quarters.mean() > 0.15 and ninths.mean() > 0.15 and (quarters | ninths | (own % 1 == 0)).all()


def test_the_config_key_is_an_alpha_or_an_alpha_and_grids():
    read = lambda value: make_augment({"patch_mixing": value}, **GREY).patch_mixing
    assert read(0.3) == (0.3, ((7, 7),)) and read((0.3, 7, 14)) == (0.3, ((7, 7), (14, 14))) and read(None)[0] == 0
    with pytest.raises(ConfigError, match="patch_mixing"):
        read((0.3, 1.5))
