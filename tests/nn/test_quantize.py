import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.nn.quantize import Activation, Quantization, asymmetric, quantized_weight, symmetric, weight_range

X = jnp.array([-2.0, -0.6, -0.1, 0.0, 0.24, 0.9, 3.0])


def test_weights_lie_on_a_symmetric_grid_and_are_cut_at_its_ends():
    """Three bits: n = 3, codes -4 … 3, steps of a third of the larger end."""
    made = symmetric(X, 3, jnp.array(-0.6), jnp.array(0.9))
    np.testing.assert_allclose(made, 0.3 * np.array([-4, -2, 0, 0, 1, 3, 3]), atol=1e-6)


def test_activations_lie_on_a_grid_that_holds_zero_and_does_not_end():
    """Two bits from -1 to 2: steps of 1; beyond the range the codes go on."""
    np.testing.assert_allclose(asymmetric(X, 2, jnp.array(-1.0), jnp.array(2.0)), [-2, -1, 0, 0, 0, 1, 3], atol=1e-6)
    shifted = asymmetric(X, 8, jnp.array(-0.13), jnp.array(0.9))
    assert shifted[3] == 0 and float(jnp.abs(shifted - X).max()) <= 0.5 * 1.03 / 255 + 1e-6


def test_derivatives_pass_straight_through_also_where_values_are_cut():
    for run in (symmetric, asymmetric):
        slope = jax.grad(lambda x, run=run: (run(x, 4, jnp.array(-0.5), jnp.array(0.5)) * jnp.arange(7)).sum())(X)
        np.testing.assert_array_equal(slope, jnp.arange(7))


def test_ranges_are_those_of_each_output_channel_whole_or_without_the_last_thousandths():
    kernel = np.random.RandomState(0).standard_normal((3, 3, 200, 2)).astype(np.float32)
    flat = np.sort(kernel.reshape(-1, 2), axis=0)
    np.testing.assert_array_equal(weight_range(kernel, False), flat[[0, -1]])
    np.testing.assert_array_equal(weight_range(kernel, True), flat[[1, 1798]])  # the 2nd and the 1799th of 1800
    few = kernel[:, :, :1]
    np.testing.assert_allclose(weight_range(few, True), 0.95 * np.array([few.min((0, 1, 2)), few.max((0, 1, 2))]))
    coarse = quantized_weight(kernel, Quantization(weight_bits=4))
    assert all(len(np.unique(np.round(coarse[..., c] * 7 / np.abs(kernel[..., c]).max()))) <= 16 for c in (0, 1))


def test_an_activation_s_range_begins_with_the_first_batch_and_then_follows_slowly():
    layer = Activation(Quantization(activation_bits=8, momentum=0.9))
    variables = layer.init(jax.random.key(0), jnp.zeros(3), False)
    for values, expected in (([-1.0, 3.0], (-1.0, 3.0)), ([-2.0, 5.0], (-1.1, 3.2)), ([0.0, 0.0], (-0.99, 2.88))):
        _, new = layer.apply(variables, jnp.array(values), True, mutable=["batch_stats"])
        variables = {**variables, **new}
        found = [float(variables["batch_stats"][name][0]) for name in ("x_min", "x_max")]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    _, new = layer.apply(variables, jnp.array([-9.0, 9.0]), False, mutable=["batch_stats"])
    np.testing.assert_allclose(new["batch_stats"]["x_max"], 2.88, rtol=1e-5)


def test_without_quantization_there_is_no_range_and_bits_have_limits():
    layer = Activation(None)
    assert layer.init(jax.random.key(0), X, False) == {} and (layer.apply({}, X, True) == X).all()
    with pytest.raises(ModelError, match=r"weight_bits=1 is not within 2\.\.16"):
        Quantization(weight_bits=1)
