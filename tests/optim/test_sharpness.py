import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.optim import active_share, dominant_eigenvalue, gaussian_flatness, landscape
from jaxvision.optim.sharpness import filter_normalized


def quadratic(spectrum, seed=0):
    """(loss, parameters, matrix): 1/2 w'Hw with the given eigenvalues in a random basis, w cut into two leaves."""
    random = np.random.RandomState(seed)
    basis, _ = np.linalg.qr(random.standard_normal((len(spectrum),) * 2))
    matrix = jnp.asarray(basis @ np.diag(spectrum) @ basis.T, jnp.float32)

    def loss(params, matrix):
        w = jnp.concatenate([params["a"].ravel(), params["b"]])
        return 0.5 * w @ matrix @ w

    return loss, {"a": jnp.ones((2, 3)), "b": jnp.ones(len(spectrum) - 6)}, matrix


@pytest.mark.parametrize("top", [50.0, -50.0])
def test_the_dominant_eigenvalue_of_a_quadratic_is_found_with_its_sign(top):
    loss, params, matrix = quadratic([top, *np.linspace(-9, 10, 39)])
    assert dominant_eigenvalue(loss, params, jax.random.key(0), matrix, iterations=15) == pytest.approx(top, rel=1e-4)


def test_lanczos_needs_few_products_where_the_gap_is_small():
    spectrum = [1.0, 0.97, *np.linspace(0, 0.9, 58)]
    loss, params, matrix = quadratic(spectrum)
    assert dominant_eigenvalue(loss, params, jax.random.key(1), matrix, iterations=20) == pytest.approx(1.0, rel=1e-3)


def test_many_more_iterations_than_dimensions_change_nothing():
    loss, params, matrix = quadratic([3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert dominant_eigenvalue(loss, params, jax.random.key(0), matrix, iterations=100) == pytest.approx(3.0, rel=1e-5)


def test_only_restricts_to_a_diagonal_block():
    loss, params, matrix = quadratic(np.linspace(1, 30, 30))
    expected = np.linalg.eigvalsh(np.asarray(matrix)[6:, 6:]).max()
    assert dominant_eigenvalue(loss, params, jax.random.key(0), matrix, iterations=24, only="^b$") == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ConfigError, match="finds no parameter"):
        dominant_eigenvalue(loss, params, jax.random.key(0), matrix, only="c")


def test_flatness_of_a_quadratic_is_half_the_trace_times_the_variance():
    loss, params, matrix = quadratic(np.linspace(0, 2, 60))
    params = jax.tree.map(jnp.zeros_like, params)
    measured = gaussian_flatness(loss, params, jax.random.key(0), matrix, sigma=0.1, samples=200)
    assert measured == pytest.approx(0.5 * 0.01 * 60, rel=0.05)
    assert gaussian_flatness(loss, params, jax.random.key(0), matrix, sigma=0.1, samples=200) == measured


def test_filters_of_a_direction_have_the_norms_of_the_parameters_own():
    params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 5)), "bias": jnp.ones(5)}
    direction = filter_normalized(jax.random.key(1), params)
    norm = lambda x: jnp.linalg.norm(x.reshape(-1, 5), axis=0)
    np.testing.assert_allclose(norm(direction["kernel"]), norm(params["kernel"]), rtol=1e-5)
    assert not direction["bias"].any()


def test_the_landscape_of_a_quadratic_is_a_parabola_in_both_directions_around_the_parameters():
    loss, params, matrix = quadratic(np.linspace(1, 2, 20))
    offsets, losses = landscape(loss, params, jax.random.key(0), matrix, span=1.0, points=5)
    np.testing.assert_allclose(offsets, [-1, -0.5, 0, 0.5, 1])
    assert losses.shape == (5, 5)
    np.testing.assert_allclose(losses[2, 2], loss(params, matrix), rtol=1e-6)
    for row in (*losses, *losses.T):
        np.testing.assert_allclose(np.diff(row, 3), 0, atol=2e-4)
        assert np.diff(row, 2).min() > 1e-3


def test_active_share_counts_positive_elements_by_name():
    taps = {"blocks_0": {"mlp": {"pre_activation": (jnp.asarray([1.0, -1.0, 0.0, 2.0]),)}}, "out": (jnp.ones(3),)}
    assert active_share(taps, only="pre_activation") == {"blocks_0/mlp/pre_activation/0": 0.5}
