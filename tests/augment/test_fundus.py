import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.fundus import TRANSFORMS, augment_fundus, gaussian_blur
from jaxvision.errors import ConfigError

KEY = jax.random.key(3)


def disc(count=4, side=32):
    """Photographs with a bright disc on black and one spot off the centre."""
    place = np.arange(side) + 0.5 - side / 2
    image = np.where(np.hypot(place[:, None], place) < side / 2, 160, 0).astype(np.uint8)
    image[8:12, 14:18] = 250
    return jnp.asarray(np.repeat(np.repeat(image[None, :, :, None], 3, 3), count, 0))


def apply(*policy, key=KEY, row=None):
    row = jnp.arange(12) if row is None else row
    return np.asarray(augment_fundus(key, disc(len(row)), row, policy))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_changes_pixels_keeps_their_range_and_draws_by_row(name):
    changed, plain = apply(name), apply()
    assert changed.shape == plain.shape and changed.min() >= 0 and changed.max() <= 1 and np.isfinite(changed).all()
    assert (np.abs(changed - plain).max((1, 2, 3)) > 1e-3).sum() >= 2
    # The same rows in another order are the same pictures.
    np.testing.assert_allclose(apply(name, row=jnp.array([2, 0])), changed[[2, 0]], atol=1e-6)


def test_a_rotation_keeps_the_distance_of_a_spot_to_the_centre():
    for picture in apply("rotate")[:4]:
        weight = np.clip(picture[..., 0] - 200 / 255, 0, 1)
        y, x = ((weight * axis).sum() / weight.sum() for axis in np.mgrid[:32, :32] + 0.5)
        assert np.hypot(y - 16, x - 16) == pytest.approx(6, abs=0.5)


def test_flips_reach_all_four_mirrorings_exactly():
    plain = np.asarray(disc(1)[0]) / 255
    mirrored = [plain, plain[::-1], plain[:, ::-1], plain[::-1, ::-1]]
    pictures = np.asarray(augment_fundus(KEY, disc(24), jnp.arange(24), ("flip",)))
    kinds = {min(range(4), key=lambda k: np.abs(picture - mirrored[k]).max()) for picture in pictures}
    assert max(min(np.abs(picture - m).max() for m in mirrored) for picture in pictures) < 0.01
    assert {0, 1} <= kinds or {2, 3} <= kinds


def test_blurring_spreads_a_point_by_the_asked_deviation():
    point = jnp.zeros((2, 21, 21, 1)).at[:, 10, 10].set(1.0)
    blurred = np.asarray(gaussian_blur(point, jnp.array([0.0, 1.5]), 6))
    np.testing.assert_allclose(blurred[0], point[0], atol=1e-6)
    spread = (blurred[1, ..., 0].sum(1) * (np.arange(21) - 10) ** 2).sum()
    assert blurred[1].sum() == pytest.approx(1, abs=1e-5) and spread**0.5 == pytest.approx(1.5, abs=0.02)


def test_an_unknown_transform_names_its_neighbours():
    with pytest.raises(ConfigError, match="did you mean 'rotate'"):
        apply("rotat")
