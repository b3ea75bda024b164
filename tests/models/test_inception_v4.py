import functools

import jax
import jax.numpy as jnp
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.inception_v4 import CHECKPOINT, InceptionV4
from jaxvision.models.registry import create_model, shapes_of
from tests.models.convnet_golden import worst_error


def test_one_block_of_each_kind_agrees_with_timm_at_the_smallest_side_and_non_square():
    model = create_model("inception_v4", num_classes=10, image_size=(75, 107), depths=(1, 1, 1))
    assert worst_error("inception_v4", "shallow", model, CHECKPOINT["torch"]) < 1e-4


def test_maps_at_the_published_size_have_the_published_sides_and_channels():
    model = create_model("inception_v4", num_classes=0, depths=(1, 1, 1), dtype=jnp.bfloat16)
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    assert [m.shape[1:] for m in maps] == [(73, 73, 160), (35, 35, 384), (17, 17, 1024), (8, 8, 1536)]
    features = jax.eval_shape(model.apply, variables, image)
    assert features.shape == (1, 1536) and features.dtype == jnp.float32


def test_recomputing_blocks_keeps_the_parameters_in_place():
    plain, remat = (shapes_of(InceptionV4(depths=(1, 1, 1), image_size=(75, 75), remat=remat)) for remat in (False, True))
    assert jax.tree.structure(plain) == jax.tree.structure(remat)


def test_a_side_that_five_halvings_use_up_is_refused():
    with pytest.raises(ModelError, match="image_size 74x299 is too small for Inception; both sides have to be at least 75"):
        shapes_of(create_model("inception_v4", image_size=(74, 299)))


@pytest.mark.parametrize("name, width", [("inception_v4", 1024), ("inception_resnet_v2", 1088)])
def test_the_auxiliary_classifier_sees_the_middle_map_in_training_alone(name, width):
    model = create_model(name, auxiliary=True, depths=(1, 1, 1))
    shapes = shapes_of(model)
    extra = shapes["params"]["auxiliary"]
    assert extra["conv0"]["conv"]["kernel"].shape == (1, 1, width, 128) and extra["conv1"]["conv"]["kernel"].shape == (5, 5, 128, 768)
    assert extra["fc"]["kernel"].shape == (768, 1000)

    def sown(train, width=299):
        apply = functools.partial(model.apply, train=train, mutable=["batch_stats", "auxiliary"], rngs={"dropout": jax.random.key(0)})
        return jax.eval_shape(apply, shapes, jax.ShapeDtypeStruct((2, 299, width, 3), jnp.float32))[1].get("auxiliary")

    assert sown(train=True)["logits"][0].shape == (2, 1000) and sown(train=False) is None
    with pytest.raises(ModelError, match="made for images of 299x299, got 299x331: create the model at that size"):
        sown(train=True, width=331)
