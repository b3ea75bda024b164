import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jaxvision.augment.ycbcr import luma, rgb_to_ycbcr, ycbcr_to_rgb
from jaxvision.errors import ConfigError
from jaxvision.tasks.restore import quality


def pair():
    rng = np.random.RandomState(0)
    clean = rng.randint(0, 256, (2, 24, 20, 3)).astype(np.float32) / 255
    return clean, np.clip(clean + 0.1 * rng.standard_normal(clean.shape), 0, 1).astype(np.float32)


def test_psnr_and_ssim_are_those_of_scikit_image():
    clean, made = pair()
    ours = quality.psnr(jnp.asarray(clean), jnp.asarray(made)), quality.ssim(jnp.asarray(clean), jnp.asarray(made))
    for row in range(2):
        a, b = clean[row].astype(np.float64), made[row].astype(np.float64)
        assert float(ours[0][row]) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-4)
        settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=-1)
        assert float(ours[1][row]) == pytest.approx(structural_similarity(a, b, **settings), abs=1e-5)


def test_flat_pictures_keep_their_ssim():
    """Where variances are differences of nearly equal squares."""
    rng = np.random.RandomState(1)
    a = (0.9 + 0.002 * rng.standard_normal((1, 16, 16, 1))).astype(np.float32)
    b = (a + 0.002 * rng.standard_normal(a.shape)).astype(np.float32)
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
    theirs = structural_similarity(a[0, ..., 0].astype(np.float64), b[0, ..., 0].astype(np.float64), **settings)
    assert float(quality.ssim(jnp.asarray(a), jnp.asarray(b))[0]) == pytest.approx(theirs, abs=1e-5)


def test_luma_is_bt601_and_turns_back():
    clean, _ = pair()
    formula = (16 + clean @ np.asarray([65.481, 128.553, 24.966])) / 255
    np.testing.assert_allclose(luma(jnp.asarray(clean))[..., 0], formula, atol=1e-6)
    white = luma(jnp.ones((1, 1, 1, 3)))
    assert float(white[0, 0, 0, 0]) == pytest.approx(235 / 255, abs=1e-6)
    np.testing.assert_allclose(ycbcr_to_rgb(rgb_to_ycbcr(jnp.asarray(clean))), clean, atol=1e-5)


def test_pictures_are_compared_as_files_without_their_border():
    clean, _ = pair()
    made = clean.copy()
    made[:, :2] = 0.0
    made[:, 2:] += 0.4 / 255  # vanishes when it is rounded
    kept = [quality.comparable(jnp.asarray(x), border=2) for x in (made, clean)]
    assert kept[0].shape == (2, 20, 16, 3)
    np.testing.assert_allclose(quality.psnr(*kept), quality.HIGHEST)
    assert float(quality.psnr(*(quality.comparable(jnp.asarray(x)) for x in (made, clean)))[0]) < 20
    with pytest.raises(ConfigError, match="border of 10 pixels leaves nothing"):
        quality.comparable(jnp.asarray(clean), border=10)
    with pytest.raises(ConfigError, match="11 x 11"):
        quality.ssim(jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 8, 8, 1)))


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    rng = np.random.RandomState(0)
    a = rng.standard_normal((4000, 3)) * [1.0, 2.0, 0.5]
    b = rng.standard_normal((4000, 3)) * [2.0, 1.0, 0.5] + [1.0, 0.0, 0.0]
    assert quality.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert quality.frechet_distance(a, b) == pytest.approx(1 + 1 + 1, rel=0.08)
    from scipy.linalg import sqrtm

    one, two = np.cov(a.T), np.cov(b.T)
    gap = a.mean(0) - b.mean(0)
    assert quality.frechet_distance(a, b) == pytest.approx(gap @ gap + np.trace(one + two - 2 * sqrtm(one @ two).real), rel=1e-6)
