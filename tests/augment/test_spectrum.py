import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.spectrum import low_frequency_crop
from jaxvision.errors import ConfigError

FULL = 224
crop = jax.jit(low_frequency_crop, static_argnums=1)


def by_fft(x, size):
    full, half = x.shape[1], size // 2
    kept = np.r_[0:half, full - half : full]
    spectrum = np.fft.fft2(x, axes=(1, 2))[:, kept][:, :, kept]
    return np.fft.ifft2(spectrum * (size / full) ** 2, axes=(1, 2)).real


@functools.cache
def images():
    return np.random.RandomState(0).randn(2, FULL, FULL, 3).astype(np.float32)


@pytest.mark.parametrize("size", [96, 160, 192])
def test_crop_equals_the_cropped_fourier_transform_and_keeps_the_mean(size):
    ours = np.asarray(crop(images(), size))
    assert ours.shape == (2, size, size, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, by_fft(images().astype(np.float64), size), atol=1e-5)
    np.testing.assert_allclose(ours.mean(axis=(1, 2)), images().mean(axis=(1, 2)), atol=1e-5)


def wave(frequency, samples, axis):
    values = np.cos(2 * np.pi * frequency * np.arange(samples) / samples)
    return np.broadcast_to(np.expand_dims(values, 1 - axis), (samples, samples))[None, :, :, None].astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_frequencies_below_the_limit_are_sampled_exactly_and_above_it_vanish(axis):
    size = 160
    for frequency, amplitude in ((3, 1.0), (79, 1.0), (80, 0.5), (81, 0.0), (100, 0.0)):
        np.testing.assert_allclose(crop(wave(frequency, FULL, axis), size), amplitude * wave(frequency, size, axis), atol=1e-5)


def test_crop_of_other_shapes_and_of_the_full_size():
    x = images()[:, :20, :28, :1]
    assert np.array_equal(low_frequency_crop(x, (20, 28)), x)
    rows, columns = np.r_[0:5, 15:20], np.r_[0:8, 20:28]
    spectrum = np.fft.fft2(x, axes=(1, 2))[:, rows][:, :, columns] * (10 * 16 / (20 * 28))
    np.testing.assert_allclose(low_frequency_crop(x, (10, 16)), np.fft.ifft2(spectrum, axes=(1, 2)).real, atol=1e-5)


def test_no_gradient_passes():
    assert not np.any(jax.grad(lambda x: jnp.sum(low_frequency_crop(x, 4) ** 2))(images()[:1, :8, :8, :1]))


@pytest.mark.parametrize("size", [95, 226, 0])
def test_a_size_that_has_no_definition_is_an_error(size):
    with pytest.raises(ConfigError, match="must be even"):
        low_frequency_crop(images(), size)
