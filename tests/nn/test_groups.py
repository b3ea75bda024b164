"""Groups hold the tokens that they should, by plain loops."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.nn.groups import dilated_groups, local_groups, shifted_groups, token_numbers


def by_loops(groups, number_of):
    """{set of tokens} where two tokens share a group if `number_of` says the same of all their axes."""
    sets = {}
    for place in itertools.product(*map(range, groups.padded)):
        key = tuple(number_of(axis, i) for axis, i in enumerate(place))
        sets.setdefault(key, set()).add(int(np.ravel_multi_index(place, groups.padded)))
    return {frozenset(tokens) for tokens in sets.values()}


def as_sets(groups):
    return {frozenset(row.tolist()) for row in token_numbers(groups)}


def test_local_groups_are_neighbours_and_dilated_ones_are_a_stride_apart():
    local, dilated = local_groups((4, 10, 8), (2, 4, 4)), dilated_groups((4, 8, 12), (2, 4, 4), 4)
    assert (local.padded, local.counts) == ((4, 12, 8), (2, 3, 2))
    assert as_sets(local) == by_loops(local, lambda axis, i: i // local.group[axis])
    assert (dilated.padded, dilated.group, dilated.counts) == ((4, 8, 12), (2, 4, 4), (2, 2, 3))
    assert as_sets(dilated) == by_loops(dilated, lambda axis, i: i % dilated.counts[axis])
    assert all(len(row) == dilated.tokens for row in as_sets(dilated))


def test_a_side_that_a_group_does_not_divide_makes_larger_groups_as_published():
    assert dilated_groups((8, 20, 20), (2, 8, 8), 4).group == (2, 10, 10)
    assert dilated_groups((4, 20, 12), (2, 8, 4), 8).padded == (8, 24, 16)
    # 9 rows at a stride of 2, which the public code refuses.
    odd = dilated_groups((2, 9, 8), (2, 4, 4), 1)
    assert (odd.padded, odd.group, odd.masked) == ((2, 10, 8), (2, 5, 4), True)
    assert local_groups((4, 4, 4), (2, 8, 8)).group == (4, 4, 4)
    assert local_groups((4, 6, 20), (2, 8, 8)).group == dilated_groups((4, 6, 20), (2, 8, 8), 4).group == (4, 6, 20)


CUTS = [local_groups((3, 10, 5), (2, 4, 4)), dilated_groups((3, 10, 6), (2, 4, 4), 4), shifted_groups((4, 8, 8), (2, 4, 4))]


@pytest.mark.parametrize("groups", CUTS)
def test_joining_undoes_cutting(groups):
    x = jnp.arange(2 * np.prod(groups.size) * 3, dtype=jnp.float32).reshape(2, *groups.size, 3)
    cut = groups.cut(x)
    assert cut.shape == (2, np.prod(groups.counts), groups.tokens, 3)
    np.testing.assert_array_equal(groups.join(cut), x)


def test_padding_is_hidden_unless_it_is_the_depths_of_dilated_groups():
    local = local_groups((4, 10, 8), (2, 4, 4))
    hidden = token_numbers(local) // 8 % 12 >= 10
    np.testing.assert_array_equal(local.mask()[:, 0], np.broadcast_to(~hidden[:, None], local.mask()[:, 0].shape))
    assert dilated_groups((3, 8, 8), (2, 4, 4), 4).mask() is None and local_groups((4, 8, 8), (2, 4, 4)).mask() is None
    assert local_groups((3, 8, 8), (2, 4, 4)).mask() is not None


def test_shifted_groups_do_not_look_across_the_border():
    groups = shifted_groups((4, 8, 8), (2, 4, 4))
    assert groups.shift == (1, 2, 2)
    place = np.stack(np.unravel_index(token_numbers(groups), groups.padded), -1)
    far = (np.abs(place[:, :, None] - place[:, None]) >= np.array(groups.group)).any(-1)
    np.testing.assert_array_equal(groups.mask()[:, 0], ~far)
