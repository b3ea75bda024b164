import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.densenet import CHECKPOINT, DenseNet
from jaxvision.models.registry import create_model, shapes_of
from tests.models.convnet_golden import worst_error


def test_a_narrow_network_agrees_with_timm_at_an_odd_size():
    model = create_model("densenet121", num_classes=10, image_size=(65, 49), growth=8, depths=(2, 3, 2, 2))
    assert worst_error("densenet", "small", model, CHECKPOINT["torch"]) < 1e-4


def test_a_deep_stem_agrees_with_timm():
    model = create_model("densenet264d", num_classes=10, image_size=(64, 75), growth=8, depths=(1, 1, 1, 2))
    assert worst_error("densenet", "deep", model, CHECKPOINT["torch"]) < 1e-4


def test_maps_grow_by_what_each_layer_adds_and_features_are_float32():
    model = create_model("densenet121", num_classes=0, depths=(1, 2, 3, 4), dtype=jnp.bfloat16)
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((1, 225, 97, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    assert [m.shape for m in maps] == [(1, 57, 25, 96), (1, 28, 12, 112), (1, 14, 6, 152), (1, 7, 3, 204)]
    features = jax.eval_shape(model.apply, variables, image)
    assert features.shape == (1, 204) and features.dtype == jnp.float32


def test_a_layer_keeps_its_input_in_front_of_what_it_adds():
    model = DenseNet(growth=4, depths=(1, 2), stem="cifar", num_classes=3, image_size=(8, 8), remat=True)
    image = jnp.asarray(np.random.RandomState(0).standard_normal((2, 8, 8, 3)), jnp.float32)

    @jax.jit
    def run(key, image):
        variables = model.init(key, image)
        stem = jax.lax.conv_general_dilated(
            image, variables["params"]["conv0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return stem, model.apply(variables, image, method="stages")[0]

    stem, first = run(jax.random.key(0), image)
    assert first.shape == (2, 8, 8, 12)
    np.testing.assert_allclose(first[..., :8], stem, atol=1e-5)


def test_too_small_images_and_unknown_stems_are_refused():
    with pytest.raises(ModelError, match="image_size 28x64 is too small; both sides have to be at least 29"):
        shapes_of(DenseNet(image_size=(28, 64)))
    with pytest.raises(ModelError, match="did you mean 'deep'"):
        shapes_of(DenseNet(stem="dep"))
