import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.efficientnet import CHECKPOINT, EfficientNet
from jaxvision.models.registry import count_parameters, create_model, shapes_of
from jaxvision.trees import map_named
from tests.models.convnet_golden import worst_error

TINY = {"rows": ((1, 3, 1, 1, 8), (2, 3, 2, 2, 8)), "stem": 8, "head": 16, "num_classes": 3, "image_size": (16, 16)}


def test_efficientnet_b0_agrees_with_timm_at_an_odd_size():
    model = create_model("efficientnet_b0", num_classes=10, image_size=(65, 49))
    assert worst_error("efficientnet", "efficientnet_b0", model, CHECKPOINT["torch"]) < 1e-4


def test_tensorflow_padding_and_epsilon_agree_with_timm():
    model = create_model("tf_efficientnet_b2", num_classes=10, image_size=(64, 75), depth=0.1)
    assert worst_error("efficientnet", "tf_shallow_b2", model, CHECKPOINT["torch"]) < 1e-4


def test_the_network_for_small_images_has_the_port_s_count_less_its_unused_convolution():
    assert count_parameters("efficientnet_b0_cifar", num_classes=10) == 3_599_686 - 32 * 32 - 2 * 32


def test_scaling_multiplies_blocks_and_channels_as_published():
    model = create_model("efficientnet_b7")
    assert model.depths() == (4, 7, 7, 10, 10, 13, 4)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), shapes_of(model), jax.ShapeDtypeStruct((1, 65, 99, 3), jnp.float32))
    assert [m.shape for m in maps] == [(1, 17, 25, 48), (1, 9, 13, 80), (1, 5, 7, 224), (1, 3, 4, 640)]


def test_a_dropped_branch_leaves_the_input_of_the_block():
    image = jnp.asarray(np.random.RandomState(0).standard_normal((4, 16, 16, 3)), jnp.float32)

    @jax.jit
    def run(key, image):
        variables = EfficientNet(**TINY).init(key, image)

        def last_map(variables, **settings):
            model = EfficientNet(**TINY, **settings)
            return model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key}, method="stages")[0][-1]

        silent = map_named(lambda name, leaf: leaf * 0 if name == "params/blocks_1_1/bn3/scale" else leaf, variables)
        # The rate of the last of four blocks is three quarters of the whole.
        return last_map(variables, drop_path=1.3333, remat=True), last_map(silent), last_map(variables)

    dropped, silent, kept = run(jax.random.key(0), image)
    np.testing.assert_allclose(dropped, silent, rtol=1e-4, atol=1e-4)
    assert np.abs(dropped - kept).max() > 0.1


def test_features_without_a_head_are_float32_and_an_unknown_activation_is_refused():
    model = EfficientNet(**{**TINY, "num_classes": 0}, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    features = jax.eval_shape(model.apply, shapes_of(model), image)
    assert features.shape == (2, 16) and features.dtype == jnp.float32
    with pytest.raises(ModelError, match="did you mean 'silu'"):
        shapes_of(EfficientNet(**TINY, activation="silo"))
