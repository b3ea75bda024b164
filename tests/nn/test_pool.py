import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.nn.pool import adaptive_avg_pool, avg_pool, max_pool


def row(*values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 1)


def test_max_pool_padding_never_wins_and_ceil_mode_keeps_the_incomplete_window():
    x = row(-5, -4, -3, -2, -1, -6)
    np.testing.assert_array_equal(max_pool(x, (1, 3), (1, 2), (0, 1)).ravel(), [-4, -2, -1])
    np.testing.assert_array_equal(max_pool(x, (1, 3), (1, 2)).ravel(), [-3, -1])
    np.testing.assert_array_equal(max_pool(x, (1, 3), (1, 2), ceil_mode=True).ravel(), [-3, -1, -1])


def test_ceil_mode_drops_a_window_that_would_start_after_the_image():
    # Three pixels, one padded on each side, windows of 2 every 3: a third would start in the right padding, and PyTorch gives two.
    np.testing.assert_array_equal(max_pool(row(1, 2, 3, 4, 5), (1, 2), (1, 3), (0, 1), ceil_mode=True).ravel(), [1, 4])


@pytest.mark.parametrize("include, first", [(False, 1.5), (True, 1.0)])
def test_avg_pool_counts_padding_only_when_asked(include, first):
    out = avg_pool(row(1, 2, 3.5, 4, 6, 4), (1, 3), (1, 2), (0, 1), count_include_pad=include)
    np.testing.assert_allclose(out.ravel(), [first, 9.5 / 3, 14 / 3], rtol=1e-6)


def test_avg_pool_in_ceil_mode_divides_by_the_pixels_it_has():
    np.testing.assert_allclose(avg_pool(row(2, 4, 6), (1, 2), (1, 2), ceil_mode=True).ravel(), [3, 6])


def test_same_padding_is_asymmetric_and_not_counted():
    np.testing.assert_allclose(avg_pool(row(1, 2, 3, 4), (1, 3), (1, 2), "SAME").ravel(), [2, 3.5])
    np.testing.assert_array_equal(max_pool(row(-1, -2, -3, -4), (1, 3), (1, 2), "SAME").ravel(), [-1, -3])


def test_adaptive_windows_cover_the_map_and_overlap_where_they_must():
    np.testing.assert_allclose(adaptive_avg_pool(row(1, 2, 4, 8, 16), (1, 2)).ravel(), [7 / 3, 28 / 3], rtol=1e-6)
    np.testing.assert_allclose(adaptive_avg_pool(row(1, 2), (1, 3)).ravel(), [1, 1.5, 2])
    np.testing.assert_allclose(adaptive_avg_pool(row(1, 2, 3, 4), (2, 2)), [[[[1.5], [3.5]], [[1.5], [3.5]]]])


def test_gradients_reach_the_maximum_and_every_pixel_of_a_mean():
    x = row(1, 3, 2, 4, 0, 1).astype(jnp.bfloat16)
    maximum, mean = jax.jit(lambda x: [jax.grad(lambda x: pool(x, (1, 2), (1, 2)).sum())(x) for pool in (max_pool, avg_pool)])(x)
    np.testing.assert_array_equal(maximum.ravel(), [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(mean.ravel(), [0.5] * 6)
