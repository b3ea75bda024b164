import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.nn.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from tests.reference_weights import relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "espcn.npz"


@pytest.mark.parametrize("channels, scale", [(1, 2), (3, 3), (2, 4)])
def test_the_default_order_is_torchs(channels, scale):
    x = np.arange(channels * scale**2 * 6, dtype=np.float32).reshape(1, channels * scale**2, 2, 3).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(x), scale), np.load(GOLDEN)[f"shuffle_{channels}_{scale}"])


@pytest.mark.parametrize("channels, scale", [(1, 2), (3, 3), (2, 4)])
def test_the_papers_order_is_its_formula(channels, scale):
    x = np.random.RandomState(0).standard_normal((1, 2, 3, channels * scale**2)).astype(np.float32)
    ours = np.asarray(pixel_shuffle(jnp.asarray(x), scale, order="paper"))
    for row, column, colour in np.ndindex(*ours.shape[1:]):
        # Equation 4, x the row and y the column.
        channel = channels * scale * (column % scale) + channels * (row % scale) + colour
        assert ours[0, row, column, colour] == x[0, row // scale, column // scale, channel]


@pytest.mark.parametrize("order", ["torch", "paper"])
def test_unshuffling_gives_back_what_was_shuffled(order):
    x = jnp.arange(2 * 4 * 6 * 18.0).reshape(2, 4, 6, 18)
    np.testing.assert_array_equal(pixel_unshuffle(pixel_shuffle(x, 3, order=order), 3, order=order), x)


def test_a_convolution_and_a_shuffle_are_a_transposed_convolution():
    rng, scale, channels, k = np.random.RandomState(0), 2, 3, 3
    x = jnp.asarray(rng.standard_normal((1, 5, 4, 2)), jnp.float32)
    w = rng.standard_normal((k, k, 2, channels * scale**2)).astype(np.float32)
    ours = pixel_shuffle(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), scale)
    spread = np.zeros((k * scale, k * scale, 2, channels), np.float32)
    for u, v, c, i, j in np.ndindex(k, k, channels, scale, scale):
        spread[scale * (k - 1 - u) + i, scale * (k - 1 - v) + j, :, c] = w[u, v, :, c * scale**2 + i * scale + j]
    whole = np.zeros((1, scale * (5 + k - 1), scale * (4 + k - 1), channels), np.float32)
    for y, column in np.ndindex(5, 4):  # a transposed convolution: every pixel paints its kernel
        patch = np.einsum("c,uvcd->uvd", np.asarray(x[0, y, column]), spread)
        whole[0, scale * y : scale * (y + k), scale * column : scale * (column + k)] += patch
    crop = scale * (k // 2)
    assert relative_error(ours, whole[:, crop:-crop, crop:-crop]) < 1e-5


def test_what_does_not_divide_is_an_error():
    with pytest.raises(ModelError, match="10 channels do not divide into groups of 2 x 2"):
        pixel_shuffle(jnp.zeros((1, 2, 2, 10)), 2)
    with pytest.raises(ModelError, match="5 x 4 pixels do not divide"):
        pixel_unshuffle(jnp.zeros((1, 5, 4, 1)), 2)
    with pytest.raises(ModelError, match="'torch'"):
        pixel_shuffle(jnp.zeros((1, 2, 2, 4)), 2, order="troch")
