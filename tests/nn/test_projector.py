"""Projection heads have the published numbers of parameters; DINO's computes what the released one does."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.interop import wrapped
from jaxvision.models import rules
from jaxvision.nn.projector import HEADS, Projector, Prototypes, read_layers, unit
from jaxvision.trees import named_leaves
from tests.reference_weights import fill
from tests.tasks.ssl.arrays import normal

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "ssl_losses.npz")


def parameters(module, width):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((2, width), jnp.float32))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    "head, width, count",
    [
        ("moco_v2", 2048, 4_458_624),
        ("simclr", 2048, 4_460_672),
        ("dcl", 2048, 2048 * 512 + 1024 + 512 * 128 + 128),
        ("surgical", 2048, 5_777_664),
        ("surgical_prototypes", 2048, 4_724_992),
    ],
)
def test_heads_have_the_published_numbers_of_parameters(head, width, count):
    assert parameters(Projector(HEADS[head]), width) == count


@pytest.mark.parametrize("width, kind, count", [(2048, "gain", 25_760_000), (2048, "fixed", 25_694_464), (384, "gain", 22_352_128)])
def test_dino_s_head_with_its_prototypes_has_the_published_numbers(width, kind, count):
    assert parameters(Projector(HEADS["dino"]), width) + parameters(Prototypes(65536, kind), 256) == count


def test_swav_s_prototypes_have_no_bias():
    assert parameters(Prototypes(4096), 256) == 1_048_576


def test_dino_s_head_computes_what_the_released_one_does():
    projector = Projector(((14, "gelu", True), (14, "gelu", True), (8, "", True)))
    prototypes = Prototypes(6, "fixed")
    names = {"head.last_layer.weight_v": (6, 8), "head.last_layer.weight_g": (6, 1), "backbone.norm.weight": (10,)}
    for number, (out, inner) in {0: (14, 10), 2: (14, 14), 4: (8, 14)}.items():
        names |= {f"head.mlp.{number}.weight": (out, inner), f"head.mlp.{number}.bias": (out,)}
    arrays = {name: np.ones(shape, np.float32) if name.endswith("weight_g") else fill(name, shape) for name, shape in names.items()}
    own = wrapped.split(arrays).own
    x = jnp.asarray(normal("features", 5, 10), jnp.float32)

    def loaded(module, part, x):
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
        flat = {}
        for name, leaf in named_leaves(shapes).items():
            entry = rules.resolve(f"{part}/{name}", (), "torch")
            flat[name] = entry.load([own[entry.names[0]]], leaf.shape)
        return {"params": jax.tree.unflatten(jax.tree.structure(shapes), [flat[name] for name in named_leaves(shapes)])}

    z = unit(projector.apply(loaded(projector, "projector", x), x))
    ours = prototypes.apply(loaded(prototypes, "prototypes", z), z)
    np.testing.assert_allclose(ours, GOLDEN["dino_head"], atol=2e-6)


def test_the_length_of_zero_has_a_derivative():
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros((2, 3)))).all()
    np.testing.assert_allclose(jnp.linalg.norm(unit(jnp.asarray(normal("x", 4, 5))), axis=-1), 1, rtol=1e-6)


WRONG = [("moco", "'moco' is unknown; did you mean 'moco_v2'"), (((8, "elu"),), "a layer is"), (((8,),), "a layer is")]


@pytest.mark.parametrize("head, message", WRONG)
def test_a_wrong_head_is_one_line(head, message):
    with pytest.raises(ConfigError, match=message):
        read_layers(head)
