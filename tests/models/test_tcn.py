"""The temporal network for phases: its size, its agreement with the released code, and that it does not look ahead."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.models import rules
from jaxvision.models.tcn import CHECKPOINT, MultiStageTCN
from jaxvision.trees import named_leaves
from tests.reference_weights import fill
from tests.tasks.ssl.arrays import normal

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "ssl_losses.npz")
SMALL = MultiStageTCN(4, layers=3, maps=6)


def weights():
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 4, 10)))["params"]
    leaves = named_leaves(shapes)
    resolved = rules.entries({name: leaf.shape for name, leaf in leaves.items()}, CHECKPOINT["torch"], "torch")
    flat = []
    for name, leaf in leaves.items():
        (theirs,), (foreign,) = resolved[name].names, resolved[name].save(np.zeros(leaf.shape, np.float32))
        flat.append(resolved[name].load([fill(theirs, foreign.shape)], leaf.shape))
    return {"params": jax.tree.unflatten(jax.tree.structure(shapes), flat)}


def test_the_published_network_has_429_774_parameters():
    shapes = jax.eval_shape(MultiStageTCN(7).init, jax.random.key(0), jnp.zeros((1, 4, 2048)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 429_774


def test_logits_of_both_stages_equal_the_released_ones_and_see_no_future():
    x = jnp.asarray(normal("video", 2, 11, 10), jnp.float32)
    ours = np.asarray(SMALL.apply(weights(), x))
    np.testing.assert_allclose(ours.swapaxes(2, 3), GOLDEN["tcn"], atol=2e-6)
    changed = np.asarray(SMALL.apply(weights(), x.at[:, 6:].add(3.0)))
    np.testing.assert_array_equal(changed[:, :, :6], ours[:, :, :6])
    assert np.abs(changed[:, :, 6:] - ours[:, :, 6:]).min() > 0


def test_padding_behind_the_end_is_zero_and_changes_nothing_before_it():
    x, valid = jnp.asarray(normal("video", 2, 11, 10), jnp.float32), jnp.arange(11) < jnp.asarray([[11], [8]])
    ours = np.asarray(SMALL.apply(weights(), x, valid))
    assert not ours[:, 1, 8:].any()
    np.testing.assert_allclose(ours[:, 1, :8], GOLDEN["tcn"].swapaxes(2, 3)[:, 1, :8], atol=2e-6)
