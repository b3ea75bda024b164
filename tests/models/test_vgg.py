import jax
import jax.numpy as jnp
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.registry import count_parameters, create_model, shapes_of
from jaxvision.models.vgg import CHECKPOINT, VGG
from tests.models.convnet_golden import worst_error


def test_a_map_larger_than_the_hidden_window_agrees_with_timm():
    model = create_model("vgg11", num_classes=10, image_size=(257, 225), rows=((8,), (8,), (16, 16), (32,), (32,)))
    assert worst_error("vgg", "sliding", model, CHECKPOINT["torch"]) < 1e-4


def test_batch_norm_and_a_map_smaller_than_the_hidden_window_agree_with_timm_at_an_odd_size():
    model = create_model("vgg11_bn", num_classes=10, image_size=(65, 99), rows=((8,), (16,), (16, 16), (32,), (32,)))
    assert worst_error("vgg", "bn", model, CHECKPOINT["torch"]) < 1e-4


def test_hidden_layers_for_small_images_give_the_other_published_count():
    assert count_parameters("vgg16_bn_cifar", num_classes=10, hidden=512) == 15_253_578


def test_maps_taps_and_features_of_vgg16():
    model = create_model("vgg16", num_classes=0, dtype=jnp.bfloat16)
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((1, 65, 99, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    assert [m.shape for m in maps] == [(1, 16, 24, 256), (1, 8, 12, 512), (1, 4, 6, 512), (1, 2, 3, 512)]
    features, kept = jax.eval_shape(lambda v, x: model.apply(v, x, mutable="taps"), variables, image)
    assert features.shape == (1, 4096) and features.dtype == jnp.float32
    assert len(kept["taps"]) == 13
    assert kept["taps"]["relu3_1"][0].shape == (1, 16, 24, 256)


def test_a_side_that_five_pools_use_up_is_refused():
    with pytest.raises(ModelError, match="image_size 31x40 is too small; both sides have to be at least 32"):
        shapes_of(VGG(image_size=(31, 40)))
