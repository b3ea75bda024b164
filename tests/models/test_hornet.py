import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.hornet import CHECKPOINT, SIZE_DEPENDENT, VARIANTS, GnConv, HorNet
from jaxvision.models.registry import create_model
from tests.models.convnet_golden import worst_error
from tests.models.counting import parameter_sizes

SMALL = {"num_classes": 10, "dim": 32, "depths": (1, 1, 2, 1)}


@pytest.mark.parametrize("case, size, filters", [("7x7", (71, 45), False), ("gf", (96, 96), True)])
def test_logits_and_stages_agree_with_the_official_code(case, size, filters):
    """raoyongming/HorNet at ac9e210, hornet.py; the filters of "gf" are made for 96x96 pixels and resized to 64x96 in the call."""
    model = HorNet(image_size=size, filters=(False, False, filters, filters), **SMALL)
    assert worst_error("hornet", case, model, CHECKPOINT["torch"]) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted_as_published(name):
    model = create_model(name)
    assert sum(parameter_sizes(model, (1, *model.image_size, 3), {}).values()) == VARIANTS[name].parameters


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_a_gated_convolution_without_biases_is_homogeneous_of_its_order_and_one(order):
    layer, x = GnConv(order), np.random.RandomState(0).standard_normal((1, 8, 8, 16)).astype(np.float32)
    run = jax.jit(lambda x: layer.apply(layer.init(jax.random.key(0), x), x))
    np.testing.assert_allclose(run(2 * x), 2 ** (order + 1) * run(x), rtol=1e-4, atol=1e-12)
    assert float(jnp.abs(run(x)).max()) > 0


def test_filters_follow_the_size_of_the_images():
    large, small = create_model("hornet_tiny_gf"), create_model("hornet_tiny_gf", image_size=(160, 96))
    ((_, resize),) = [row for row in SIZE_DEPENDENT if row[0].startswith("stages_2")]
    assert resize(np.ones((3, 14, 8, 2), np.float32), large, small).shape == (3, 10, 4, 2)
    ramp = np.broadcast_to(np.linspace(0, 1, 14, dtype=np.float32)[None, :, None, None], (3, 14, 8, 2))
    np.testing.assert_allclose(resize(ramp, large, small)[0, :, 0, 0], np.linspace(0, 1, 10), atol=1e-6)  # corners stay where they are


def test_images_that_vanish_and_channels_that_do_not_halve_are_refused():
    with pytest.raises(ModelError, match="at least 32, got 64x31"):
        jax.eval_shape(lambda: create_model("hornet_tiny_7x7").init(jax.random.key(0), jnp.zeros((1, 64, 31, 3))))
    with pytest.raises(ModelError, match="24 channels 4 times"):
        jax.eval_shape(lambda: GnConv(5).init(jax.random.key(0), jnp.zeros((1, 8, 8, 24))))
