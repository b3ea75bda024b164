"""What every convolutional family promises alike."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from jaxvision.models.registry import create_model, shapes_of

SHALLOW = {"depths": (1, 1, 1, 1)}
FAMILIES = {
    "seresnet50": {**SHALLOW, "remat": True, "drop_path": 0.1},
    "resnetv2_18d": {**SHALLOW, "remat": True, "drop_path": 0.1},
    "resnetv2_50x1_bit": {**SHALLOW, "remat": True, "drop_path": 0.1},
    "efficientnet_b0": {"depth": 0.1, "remat": True},
    "mobilenetv1_100": {"depth": 0.1, "remat": True, "drop_path": 0.1},
    "regnety_002": {**SHALLOW, "remat": True, "drop_path": 0.1},
    "regnetz_c16": {**SHALLOW, "remat": True, "drop_path": 0.1},
    "inception_v4": {"depths": (1, 1, 1), "remat": True},
    "inception_resnet_v1": {"depths": (1, 1, 1), "remat": True, "drop_path": 0.1},
    "vgg11_bn": {},
    "densenet121": {**SHALLOW, "remat": True},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_in_bfloat16_with_grouped_statistics_and_recomputation_can_be_differentiated(name):
    """By shapes alone: float32 logits, bfloat16 maps, gradients shaped as the parameters, running statistics in float32."""
    model = create_model(name, num_classes=7, image_size=(96, 128), dtype=jnp.bfloat16, norm_groups=2, dropout=0.1, **FAMILIES[name])
    shapes = shapes_of(model)
    image = jax.ShapeDtypeStruct((4, 96, 128, 3), jnp.float32)

    def loss(params, rest, image, key):
        logits, changed = model.apply({**rest, "params": params}, image, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return logits.sum(), (logits, changed)

    def step(variables, image, key):
        params = variables["params"]
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        maps = model.apply(variables, image, method="stages")
        return jax.value_and_grad(loss, has_aux=True)(params, rest, image, key), maps

    ((_, (logits, changed)), gradients), maps = jax.eval_shape(step, shapes, image, jax.random.key(0))
    assert logits.shape == (4, 7) and logits.dtype == jnp.float32
    assert len(maps) == 4 and {m.dtype for m in maps} == {jnp.dtype(jnp.bfloat16)}
    assert all(a.shape[1] > b.shape[1] for a, b in itertools.pairwise(maps))
    assert jax.tree.map(lambda leaf: leaf.shape, gradients) == jax.tree.map(lambda leaf: leaf.shape, shapes["params"])
    assert changed.get("batch_stats") == shapes.get("batch_stats")
