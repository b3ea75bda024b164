import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.block_resize import average_pool, repeat_pixels
from jaxvision.nn.resize import bicubic, resize_matrix

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "espcn.npz"


@pytest.mark.parametrize("size", [(5, 4), (20, 27)])
def test_cut_borders_are_those_of_torch_with_antialiasing(size):
    picture = np.random.RandomState(1).uniform(size=(1, 2, 12, 9)).astype(np.float32).transpose(0, 2, 3, 1)
    ours = bicubic(jnp.asarray(picture), size, border="cut")
    np.testing.assert_allclose(ours, np.load(GOLDEN)[f"bicubic_{size[0]}"], atol=1e-6)
    np.testing.assert_allclose(ours, jax.image.resize(picture, (1, *size, 2), "cubic"), atol=1e-6)


def matlab(full: int, size: int) -> np.ndarray:
    """MATLAB's imresize along a line, written from its documented steps: stretched kernel, weights of sum 1, mirrored indices."""
    scale, keys = size / full, lambda x: np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    width = 4 / min(scale, 1)
    matrix, mirror = np.zeros((size, full)), [*range(full), *reversed(range(full))]
    for x in range(1, size + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = int(np.floor(u - width / 2))
        index = np.arange(left, left + int(np.ceil(width)) + 2)
        weight = min(scale, 1) * keys(np.abs(min(scale, 1) * (u - index)))
        for i, w in zip(index, weight / weight.sum()):
            matrix[x - 1, mirror[(i - 1) % len(mirror)]] += w
    return matrix


@pytest.mark.parametrize("full, size", [(12, 4), (51, 17), (13, 26), (17, 51), (10, 7)])
def test_mirrored_borders_are_those_of_matlab(full, size):
    np.testing.assert_allclose(resize_matrix(full, size), matlab(full, size), atol=1e-6)


def test_shrinking_by_three_weighs_eleven_pixels_as_published():
    # The interior row of imresize by 1/3: symmetric about the middle of its block.
    row = resize_matrix(48, 16)[8]
    used = np.flatnonzero(np.abs(row) > 1e-7)
    assert used[0] == 20 and used[-1] == 30 and np.argmax(row) == 25
    np.testing.assert_allclose(row[20:31], row[20:31][::-1], atol=1e-7)
    assert resize_matrix(48, 16, antialias=False)[8].max() == 1.0


def test_pooling_undoes_repetition():
    x = jnp.arange(24.0).reshape(1, 4, 3, 2)
    np.testing.assert_array_equal(average_pool(repeat_pixels(x, 4), 4), x)
    with pytest.raises(ModelError, match="4 x 3 pixels do not divide"):
        average_pool(x, 2)


def test_an_unknown_border_names_those_there_are():
    with pytest.raises(ModelError, match="mirror"):
        resize_matrix(4, 2, border="mirrored")
