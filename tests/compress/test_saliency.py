"""Scores of weights: as the published code computes them, and what a threshold over all layers keeps."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxvision.compress import saliency
from jaxvision.nn.conv import Conv
from jaxvision.nn.norm import BatchNorm
from tests.reference_weights import fill, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[1] / "golden" / "saliency.npz")


class Net(nn.Module):
    """Two convolutions with norms, mean, dense: the network of the golden run."""

    @nn.compact
    def __call__(self, x, *, train=False):
        for i, features in enumerate((6, 8), 1):
            x = nn.relu(BatchNorm(name=f"bn{i}")(Conv(features, 3, use_bias=False, name=f"conv{i}")(x), train=train))
        return nn.Dense(4, name="fc")(x.mean((1, 2)))


def variables():
    array = lambda name, shape: np.moveaxis(np.moveaxis(fill(name, shape), 0, -1), 0, -2) if len(shape) > 1 else fill(name, shape)
    norm = lambda i, n: {"scale": array(f"bn{i}.weight", (n,)), "bias": array(f"bn{i}.bias", (n,))}
    stats = lambda i, n: {"mean": array(f"bn{i}.running_mean", (n,)), "var": array(f"bn{i}.running_var", (n,))}
    params = {
        "conv1": {"kernel": array("conv1.weight", (6, 3, 3, 3))},
        "conv2": {"kernel": array("conv2.weight", (8, 6, 3, 3))},
        "fc": {"kernel": fill("fc.weight", (4, 8)).T, "bias": array("fc.bias", (4,))},
        "bn1": norm(1, 6),
        "bn2": norm(2, 8),
    }
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": {"bn1": stats(1, 6), "bn2": stats(2, 8)}})


def loss(temperature=1.0):
    whole, (image, label) = variables(), (fill("image", (8, 3, 8, 8)).transpose(0, 2, 3, 1) * 14, np.arange(8) % 4)

    def of(params):
        logits = Net().apply({**whole, "params": params}, image) / temperature
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    return of, whole["params"]


def torch_layout(score):
    score = np.asarray(score)
    return score.T if score.ndim == 2 else score.transpose(3, 2, 0, 1)


def assert_published(name, scores):
    for layer in ("conv1", "conv2", "fc"):
        assert relative_error(torch_layout(scores[f"{layer}/kernel"]), GOLDEN[f"{name}/{layer}"]) < 2e-5


def test_snip_s_and_grasp_s_scores_are_those_of_the_published_code():
    assert_published("snip", saliency.snip(*loss()))
    assert_published("grasp", saliency.grasp(*loss(saliency.GRASP_TEMPERATURE)))


def test_synflow_s_scores_and_densities_after_a_hundred_rounds_are_those_of_the_published_code():
    whole = variables()
    assert_published("synflow", saliency.synflow(Net(), whole, (8, 8, 3)))

    @jax.jit
    def one_round(params, share):
        mask = saliency.keep(saliency.synflow(Net(), {**whole, "params": params}, (8, 8, 3)), share)
        return saliency.map_named(lambda name, leaf: leaf * mask[name] if name in mask else leaf, params)

    params = whole["params"]
    for done in range(1, 101):
        params = one_round(params, 0.1 ** (done / 100))
    found = saliency.densities(params)
    np.testing.assert_allclose([found[f"{layer}/kernel"] for layer in ("conv1", "conv2", "fc")], GOLDEN["synflow/densities"], atol=1e-3)


def test_a_threshold_keeps_a_share_of_all_weights_together():
    scores = {"a": jnp.arange(10.0), "b": 100 + jnp.arange(30.0)}
    kept = saliency.keep(scores, 0.5)
    assert int(kept["a"].sum()) == 0 and int(kept["b"].sum()) == 20
    assert all(bool(mask.all()) for mask in saliency.keep(scores, 1.0).values())


def test_erk_meets_its_share_with_no_layer_above_one():
    found = saliency.erk({"small": (3, 3, 3, 8), "large": (3, 3, 64, 64), "head": (64, 10)}, 0.2)
    sizes = {"small": 216, "large": 36864, "head": 640}
    assert sum(found[n] * sizes[n] for n in sizes) / sum(sizes.values()) == pytest.approx(0.2, abs=1e-6)
    assert found["small"] == 1.0 and found["large"] < 0.2 < found["head"]


def test_a_norm_that_starts_at_zero_hides_nothing():
    params = variables()["params"]
    hidden = {**params, "bn2": {**params["bn2"], "scale": jnp.zeros(8)}}
    same = jax.tree.map(lambda a, b: bool((a == b).all()), saliency.neutral(hidden), saliency.neutral(params))
    assert all(jax.tree.leaves(same))
