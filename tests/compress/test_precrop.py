"""Densities from the expected flow, and widths that realize them within a budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvision.compress import precrop, saliency
from jaxvision.compress.architecture import describe, prunable, resized
from jaxvision.errors import ConfigError
from jaxvision.models import create_model
from jaxvision.models.registry import shapes_of
from jaxvision.nn.conv import Conv
from jaxvision.trees import named_leaves


class Chain(nn.Module):
    num_classes: int = 4
    image_size: tuple = (8, 8)

    @nn.compact
    def __call__(self, x, *, train=False):
        for i, features in enumerate((6, 12, 24)):
            x = nn.relu(Conv(features, 3, use_bias=False, name=f"conv{i}")(x))
        return nn.Dense(self.num_classes, use_bias=False, name="fc")(x.mean((1, 2)))


def variables_of(model, seed=0):
    found = jax.jit(lambda: model.init(jax.random.key(seed), jnp.zeros((1, *model.image_size, 3)), train=False))()
    return {**{name: found[name] for name in found if name == "batch_stats"}, "params": saliency.neutral(found["params"])}


def sizes(params):
    return np.asarray([leaf.size for leaf in saliency.kernels(params).values()], float)


def test_in_a_chain_the_densities_are_the_closed_form():
    model = Chain()
    variables = variables_of(model)
    shares, weights = precrop.flow_shares(model, variables, (8, 8, 3)), sizes(variables["params"])
    np.testing.assert_allclose(shares(np.asarray([0.3, 0.9, 0.5, 1.0])), 1.0, rtol=1e-9)
    found, change = precrop.synexp(shares, weights, 0.3 * weights.sum(), rounds=3)
    assert change < 1e-5 and weights @ found == pytest.approx(0.3 * weights.sum(), rel=1e-5)
    whole = found > 1 - 1e-6
    np.testing.assert_allclose((weights * found)[~whole], (weights * found)[~whole][0], rtol=1e-4)  # as many weights in each
    assert whole.any() and (weights[whole] <= (weights * found)[~whole][0] * (1 + 1e-4)).all()


def test_the_flow_at_mean_densities_is_the_mean_over_random_masks():
    model, variables, p = Chain(), variables_of(Chain()), 0.5
    params = variables["params"]
    names = list(saliency.kernels(params))

    @jax.jit
    def masked(key):
        keys = dict(zip(names, jax.random.split(key, len(names))))
        drop = lambda name, leaf: leaf * jax.random.bernoulli(keys[name], p, leaf.shape) if name in keys else leaf
        return saliency.flow(model, {"params": precrop.map_named(drop, params)}, (8, 8, 3))

    mean = float(jax.lax.map(masked, jax.random.split(jax.random.key(1), 2000)).mean())
    field = float(saliency.flow(model, {"params": jax.tree.map(lambda leaf: p * leaf, params)}, (8, 8, 3)))
    assert mean == pytest.approx(field, rel=0.03)


@pytest.fixture(scope="module")
def residual():
    model = create_model("resnet20_cifar", num_classes=10, image_size=(8, 8), depths=(1, 1, 1), zero_init=False)
    graph, params = prunable(model), shapes_of(model)["params"]
    return model, graph, precrop.layers_of(graph, params)


def test_a_residual_network_s_densities_follow_the_shares_of_its_flow_and_empty_no_branch(residual):
    model, _, layers = residual
    variables = variables_of(model)
    shares, weights = precrop.flow_shares(model, variables, (8, 8, 3)), sizes(variables["params"])
    found, _ = precrop.synexp(shares, weights, 0.1 * weights.sum())
    assert weights @ found == pytest.approx(0.1 * weights.sum(), rel=1e-6) and found.min() > 1e-3
    ratio = (shares(np.ones(len(weights))) / (weights * found))[found < 0.999]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert [layer.name for layer in layers] == list(saliency.kernels(variables["params"]))
    iterated, _ = precrop.synexp(shares, weights, 0.1 * weights.sum(), rounds=300)
    assert iterated.min() < 1e-4  # the maximum itself gives all to the cheapest of parallel paths


@pytest.mark.parametrize("share", [0.8, 0.4, 0.1])
def test_cropped_networks_fill_their_budget_and_never_exceed_it(residual, share):
    model, graph, layers = residual
    full = {component.name: component.units for component in graph.components}
    whole = precrop.total(layers, full)
    units = precrop.crop(graph, layers, {layer.name: share for layer in layers}, share * whole)
    small = resized(model, describe(model, graph, units))
    weights = sum(leaf.size for name, leaf in saliency.kernels(shapes_of(small)["params"]).items())
    assert weights == precrop.total(layers, units) and 0.98 * share * whole < weights <= share * whole


def test_layers_may_grow_within_a_bound_on_multiply_adds(residual):
    model, graph, layers = residual
    full = {component.name: component.units for component in graph.components}
    whole, cost = precrop.total(layers, full), precrop.total(layers, full, flops=True)
    densities = {layer.name: 2.0 if "layer1" in layer.name else 0.4 for layer in layers}
    units = precrop.crop(graph, layers, densities, 0.8 * whole, most=2.0, flops_budget=cost)
    assert max(units[name] / full[name] for name in full) > 1.0
    assert precrop.total(layers, units) <= 0.8 * whole and precrop.total(layers, units, flops=True) <= cost
    assert named_leaves(shapes_of(resized(model, describe(model, graph, units))))
    with pytest.raises(ConfigError, match="larger share"):
        precrop.crop(graph, layers, densities, 10.0)


def test_depthwise_layers_lose_width_once(residual):
    model = create_model("mobilenetv2_100", num_classes=10, image_size=(32, 32), rows=((1, 3, 1, 1, 8), (2, 3, 2, 6, 16)), stem=8, head=24)
    graph = prunable(model)
    layers = precrop.layers_of(graph, shapes_of(model)["params"])
    (depthwise,) = [layer for layer in layers if layer.name == "blocks_1_0/conv_dw/kernel"]
    assert depthwise.window == 9 and depthwise.inputs == {None: 1} and depthwise.outputs[None] == 0
    full = {component.name: component.units for component in graph.components}
    (name,) = [name for name in depthwise.outputs if name]
    assert depthwise.weights({**full, name: full[name] // 2}) * 2 == depthwise.weights(full)
