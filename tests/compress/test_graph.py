"""Channels that belong together are found in the traced program alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvision.compress.graph import graph_of, trace
from jaxvision.models import create_model
from jaxvision.models.complexity import complexity
from jaxvision.nn.conv import Conv
from jaxvision.nn.norm import BatchNorm


def graph(module, shape=(1, 8, 8, 3)):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda image: module.init(jax.random.key(0), image), image)
    return graph_of(lambda v, image: module.apply(v, image), variables, image)


def table(found):
    """{component: (units, {leaf: (axis, entries a unit, reads)})}, parameters only."""
    rows = {}
    for component in found.components:
        places = [place for place in component.places if place.leaf.startswith("params/")]
        rows[component.name] = (component.units, {p.leaf[7:]: (p.axis, p.index.shape[1], p.reads) for p in places})
    return rows


def test_resnet18_has_the_published_groups():
    found = trace(create_model("resnet18_cifar", num_classes=10, image_size=(8, 8)))
    assert found.units == 2880
    assert sorted(component.units for component in found.components) == [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3
    _, stem = table(found)["conv1"]
    written = {leaf for leaf, (_, _, reads) in stem.items() if not reads}
    assert {"conv1/kernel", "bn1/bias", "layer1_0/conv2/kernel", "layer1_1/bn2/scale"} <= written
    assert {leaf for leaf, (_, _, reads) in stem.items() if reads} == {
        "layer1_0/conv1/kernel",
        "layer1_1/conv1/kernel",
        "layer2_0/conv1/kernel",
        "layer2_0/downsample_0/kernel",
    }


@pytest.mark.parametrize(
    "name, fields, parameters, millions", [("resnet18_cifar", {}, 11_173_962, 555.42), ("vgg16_bn_cifar", {"hidden": 512}, 15_253_578, 313.73)]
)
def test_the_networks_to_prune_have_the_published_parameters_and_multiply_adds(name, fields, parameters, millions):
    found = complexity(create_model(name, num_classes=10, **fields))
    assert found.parameters == parameters and found.flops / 1e6 == pytest.approx(millions, abs=0.005)


def test_concatenated_channels_stay_with_the_layer_that_made_them():
    found = table(trace(create_model("densenet121_cifar", num_classes=10, image_size=(8, 8), depths=(2, 1))))
    units, new = found["denseblock1_denselayer1/conv2"]
    assert units == 12 and new["denseblock1_denselayer2/norm1/scale"] == (0, 1, False) and new["transition1/conv/kernel"] == (2, 1, True)
    assert "denseblock1_denselayer1/norm1/scale" not in new


class Net(nn.Module):
    """What a test says in `body`: a function of a layer maker and the image."""

    body: object

    @nn.compact
    def __call__(self, x):
        conv = lambda name, features, **kw: Conv(features, kw.pop("kernel", 3), name=name, **kw)
        norm = lambda name, x: BatchNorm(name=name)(x, train=False)
        return nn.Dense(5, name="head")(self.body(self, conv, norm, x))


def shared(self, conv, norm, x):
    x = nn.relu(norm("bn1", conv("conv1", 4)(x)))
    twice = conv("conv2", 6)
    return norm("bn2", twice(x)).mean((1, 2)) + norm("bn3", twice(x)).mean((1, 2))


def flattened(self, conv, norm, x):
    return nn.relu(conv("conv1", 4, strides=4)(x)).reshape(x.shape[0], -1)


def transposed(self, conv, norm, x):
    y = nn.ConvTranspose(6, (3, 3), strides=(2, 2), name="up")(nn.relu(conv("conv1", 4)(x)))
    return nn.relu(norm("bn", y)).mean((1, 2))


def joined(self, conv, norm, x):
    down = nn.relu(conv("down", 4, strides=2)(x))
    up = jnp.repeat(jnp.repeat(nn.relu(conv("inner", 6)(down)), 2, 1), 2, 2)
    return conv("out", 3)(jnp.concatenate([conv("skip", 4)(x), up], -1)).mean((1, 2))


def shuffled(self, conv, norm, x):
    y = nn.relu(conv("conv1", 4)(x))
    y = jnp.swapaxes(y.reshape(*y.shape[:3], 2, 2), 3, 4).reshape(y.shape)
    return conv("conv2", 3)(y).mean((1, 2))


def test_a_layer_used_twice_is_cut_once():
    found = table(graph(Net(shared)))
    assert found["conv2"] == (6, {"conv2/kernel": (3, 1, False), "conv2/bias": (0, 1, False), "head/kernel": (0, 1, True)} | {
        f"bn{i}/{leaf}": (0, 1, False) for i in (2, 3) for leaf in ("scale", "bias")
    })  # fmt: skip


def test_a_channel_of_a_flattened_map_is_read_at_every_pixel():
    units, places = table(graph(Net(flattened)))["conv1"]
    assert units == 4 and places["head/kernel"] == (0, 4, True)
    (place,) = [p for p in graph(Net(flattened))["conv1"].places if p.leaf == "params/head/kernel"]
    np.testing.assert_array_equal(place.index[1], [1, 5, 9, 13])


def test_transposed_convolutions_and_skips_are_followed():
    assert table(graph(Net(transposed)))["up"][0] == 6
    found = table(graph(Net(joined)))
    assert {name: units for name, (units, _) in found.items()} == {"down": 4, "inner": 6, "skip": 4, "out": 3}


def test_shuffled_channels_are_followed_to_where_they_went():
    (place,) = [p for p in graph(Net(shuffled))["conv1"].places if p.reads]
    np.testing.assert_array_equal(place.index[:, 0], [0, 2, 1, 3])


@pytest.mark.parametrize(
    "function, cut",
    [(nn.relu, True), (nn.silu, True), (jnp.tanh, True), (lambda x: nn.relu6(x + 3), False), (jnp.exp, False), (nn.sigmoid, False), (jnp.cos, False)],
)
def test_channels_that_would_not_be_zero_are_left_alone(function, cut):
    found = graph(Net(lambda self, conv, norm, x: function(conv("conv1", 4)(x)).mean((1, 2))))
    assert ("conv1" in {component.name for component in found.components}) == cut


def test_channels_that_a_norm_over_channels_or_an_unknown_operation_sees_are_left_alone():
    layer = graph(Net(lambda self, conv, norm, x: nn.LayerNorm()(conv("conv1", 4)(x)).mean((1, 2))))
    sorting = graph(Net(lambda self, conv, norm, x: jnp.sort(conv("conv1", 4)(x), -1).mean((1, 2))))
    assert layer.components == sorting.components == ()


def test_heads_of_attention_and_whole_groups_are_units():
    vit = table(trace(create_model("vit_tiny_patch16_224", num_classes=5, image_size=(16, 16), patch=8, dim=12, depth=1, heads=3)))
    assert vit["blocks_0/attn/qkv"] == (
        3,
        {"blocks_0/attn/qkv/kernel": (1, 12, False), "blocks_0/attn/qkv/bias": (0, 12, False), "blocks_0/attn/proj/kernel": (0, 4, True)},
    )
    assert set(vit) == {"blocks_0/attn/qkv", "blocks_0/mlp/fc1"}
    grouped = table(graph(Net(lambda self, conv, norm, x: conv("c3", 4)(conv("c2", 8, groups=4)(conv("c1", 16)(x))).mean((1, 2)))))
    assert grouped["c1"][0] == 4 and grouped["c1"][1]["c2/kernel"] == (3, 2, False) and grouped["c1"][1]["c1/kernel"] == (3, 4, False)
