"""Cutting dead units keeps the function, for every family; growing keeps it too; the smaller network is a module like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.compress.architecture import as_layers, describe, prunable, resized
from jaxvision.compress.cut import cut, dead, grow, zeroed
from jaxvision.errors import ModelError
from jaxvision.interop import load_pretrained, save_pretrained
from jaxvision.models import create_model
from jaxvision.models.complexity import complexity
from tests.reference_weights import relative_error

# Small networks of each family: name, fields.
FAMILIES = {
    "resnet50": {"image_size": (32, 32), "depths": (1, 2), "widths": (8, 16), "zero_init": False},
    "resnetv2_50": {"image_size": (32, 32), "depths": (1, 2), "widths": (16, 32), "stem": "7x7"},
    "seresnext50_32x4d": {"image_size": (32, 32), "depths": (2,), "widths": (64,), "groups": 4},
    "vgg11_bn": {"image_size": (32, 32), "rows": ((4, 6), (8,)), "hidden": 12, "hidden_window": 2},
    "mobilenetv1_100": {"image_size": (32, 32), "rows": ((1, 3, 1, 1, 16), (2, 3, 2, 1, 24)), "stem": 8},
    "mobilenetv2_100": {"image_size": (32, 32), "rows": ((1, 3, 1, 1, 8), (2, 3, 2, 6, 16)), "stem": 8, "head": 24},
    "efficientnet_b0": {"image_size": (32, 32), "rows": ((1, 3, 1, 1, 8), (2, 5, 2, 4, 16)), "stem": 8, "head": 24},
    "densenet121_cifar": {"image_size": (16, 16), "depths": (2, 2), "growth": 6},
    "regnety_002": {"image_size": (32, 32), "depths": (1, 2), "widths": (16, 32), "group_widths": (8, 8)},
    "convnext_atto": {"image_size": (32, 32), "depths": (1, 1), "dims": (8, 16)},
    "vit_tiny_patch16_224": {"image_size": (16, 16), "patch": 8, "dim": 12, "depth": 2, "heads": 3},
}


def network(name, seed=0):
    """(model, variables drawn anew everywhere, so that no norm starts at zero)."""
    model = create_model(name, num_classes=5, **FAMILIES[name])
    image = jnp.zeros((1, *model.image_size, 3))
    shapes = jax.eval_shape(lambda image: model.init(jax.random.key(0), image, train=False), image)
    random = np.random.RandomState(seed)
    draw = lambda path, leaf: np.asarray(
        random.uniform(0.5, 1.5, leaf.shape) if str(path[-1].key) in ("var", "scale") else random.standard_normal(leaf.shape) * 0.3, np.float32
    )
    shapes.pop("taps", None)
    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def image_for(model, batch=2):
    return np.random.RandomState(1).standard_normal((batch, *model.image_size, 3)).astype(np.float32)


def outputs(model, variables, image):
    return np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, image))


# Those whose parts the others have too are left to the long tests.
LONG = [pytest.mark.claim, pytest.mark.timeout(120)]
FURTHER = ("resnetv2_50", "seresnext50_32x4d", "efficientnet_b0", "convnext_atto")


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG) if name in FURTHER else name for name in FAMILIES])
def test_cutting_dead_units_keeps_the_outputs(name):
    model, variables = network(name)
    graph, random, keep = prunable(model), np.random.RandomState(2), {}
    assert graph.components
    for component in graph.components:
        gone = random.rand(component.units) < 0.4
        gone[random.randint(component.units)] = False
        variables, keep[component.name] = zeroed(variables, component, gone), ~gone
        np.testing.assert_array_equal(dead(variables, component), gone)
    small = resized(model, describe(model, graph, {name: int(kept.sum()) for name, kept in keep.items()}))
    image, less = image_for(model), cut(variables, graph, keep)
    assert complexity(small).parameters < 0.85 * complexity(model).parameters
    assert complexity(small).flops < complexity(model).flops
    assert relative_error(outputs(small, less, image), outputs(model, variables, image)) < 1e-5
    alive = network(name)[1]
    assert relative_error(outputs(small, cut(alive, graph, keep), image), outputs(model, alive, image)) > 1e-3


GROWN_TOO = (pytest.param("resnet50", marks=LONG), pytest.param("seresnext50_32x4d", marks=LONG))


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet121_cifar", "vit_tiny_patch16_224", *GROWN_TOO])
def test_growing_keeps_the_outputs(name):
    model, variables = network(name)
    graph = prunable(model)
    units = {component.name: component.units + 1 + i % 3 for i, component in enumerate(graph.components)}
    large, image = resized(model, describe(model, graph, units)), image_for(model)
    more = grow(variables, graph, units, seed=3)
    assert complexity(large).parameters > complexity(model).parameters
    assert relative_error(outputs(large, more, image), outputs(model, variables, image)) < 1e-5
    with pytest.raises(ModelError, match="use cut"):
        grow(variables, graph, {graph.components[0].name: 1})


def test_the_smaller_network_starts_saves_and_loads_like_any_other(tmp_path):
    model, variables = network("vgg11_bn")
    graph = prunable(model)
    keep = {component.name: np.arange(component.units) % 2 == 0 for component in graph.components}
    layers = describe(model, graph, {name: int(kept.sum()) for name, kept in keep.items()})
    small, less = resized(model, as_layers([list(row) for row in layers])), cut(variables, graph, keep)
    fresh = small.init(jax.random.key(0), image_for(model), train=False)
    assert jax.tree.map(jnp.shape, {name: fresh[name] for name in less}) == jax.tree.map(np.shape, less)
    save_pretrained(small, less, tmp_path / "small.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(small, tmp_path / "small.safetensors"), less)
    with pytest.raises(ModelError, match="at least one"):
        cut(variables, graph, {graph.components[0].name: np.zeros(graph.components[0].units, bool)})


def test_widths_that_a_model_fixes_itself_are_found_and_left_out():
    model = create_model("vit_tiny_patch16_224", num_classes=5, image_size=(16, 16), patch=8, dim=12, depth=1, heads=3, rep_size=8)
    assert {component.name for component in prunable(model).components} == {"blocks_0/attn/qkv", "blocks_0/mlp/fc1"}


def test_a_cut_network_is_cut_again():
    model, variables = network("vgg11_bn")
    for _ in range(2):
        graph = prunable(model)
        keep = {component.name: np.arange(component.units) < max(1, component.units - 1) for component in graph.components}
        for component in graph.components:
            variables = zeroed(variables, component, ~keep[component.name])
        before, image = outputs(model, variables, image_for(model)), image_for(model)
        layers = describe(model, graph, {name: int(kept.sum()) for name, kept in keep.items()})
        model, variables = resized(model, layers), cut(variables, graph, keep)
        assert relative_error(outputs(model, variables, image), before) < 1e-5
    assert variables["params"]["features_0"]["kernel"].shape[-1] == 2
