import numpy as np
import pytest

from jaxvision.data.order import Order, permutation, uniforms
from jaxvision.errors import ConfigError


@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000])
def test_each_epoch_is_a_permutation_and_epochs_differ(size):
    epochs = [permutation(size, 3, epoch) for epoch in range(3)]
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size >= 64:
        assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
        assert not np.array_equal(epochs[0], permutation(size, 4, 0))


def test_the_order_is_the_same_in_every_release():
    np.testing.assert_array_equal(permutation(10, 0, 0), [3, 2, 1, 8, 6, 0, 7, 4, 5, 9])
    np.testing.assert_allclose(uniforms(0, 5, 3), [0.383008431603, 0.112129202418, 0.498396447666], atol=1e-12)


def test_an_epoch_is_shuffled_well():
    # Mean displacement of a random permutation of n is n / 3; neighbours are unrelated.
    order = permutation(3000, 1, 0)
    assert abs(np.abs(order - np.arange(3000)).mean() / 1000 - 1) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


def test_draws_do_not_depend_on_how_they_are_asked_for():
    whole = Order(7, 0).draws(0, 40)
    for step in (1, 3, 7, 11, 40):
        order = Order(7, 0)
        parts = [order.draws(start, min(40, start + step)) for start in range(0, 40, step)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    for epoch in range(5):
        np.testing.assert_array_equal(np.sort(whole[7 * epoch : 7 * epoch + 7]), np.arange(7))


def test_without_shuffling_the_source_is_walked_in_order():
    np.testing.assert_array_equal(Order(3, 0, shuffle=False).draws(2, 8), [2, 0, 1, 2, 0, 1])


def test_crop_numbers_belong_to_the_draw_and_the_seed():
    assert np.array_equal(uniforms(1, 2, 8), uniforms(1, 2, 8))
    assert not np.array_equal(uniforms(1, 2, 8), uniforms(1, 3, 8))
    assert not np.array_equal(uniforms(1, 2, 8), uniforms(2, 2, 8))
    many = np.concatenate([uniforms(0, draw, 40) for draw in range(200)])
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.01


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed is -1"):
        Order(3, -1)
