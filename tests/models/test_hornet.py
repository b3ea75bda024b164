import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import CheckpointError, ModelError
from jaxvision.interop import load_pretrained, save_pretrained
from jaxvision.models import imagenet22k
from jaxvision.models.hornet import CHECKPOINT, SIZE_DEPENDENT, VARIANTS, GnConv, HorNet
from jaxvision.models.registry import create_model
from tests.models.convnet_golden import worst_error
from tests.reference_weights import filled

SMALL = {"num_classes": 10, "dim": 32, "depths": (1, 1, 2, 1)}


@pytest.mark.parametrize("case, size, filters", [("7x7", (71, 45), False), ("gf", (96, 96), True)])
def test_logits_and_stages_agree_with_the_official_code(case, size, filters):
    """raoyongming/HorNet at ac9e210, hornet.py; the filters of "gf" are made for 96x96 pixels and resized to 64x96 in the call."""
    model = HorNet(image_size=size, filters=(False, False, filters, filters), **SMALL)
    assert worst_error("hornet", case, model, CHECKPOINT["torch"]) < 1e-5


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


def test_a_head_of_imagenet_22k_gives_a_model_of_1000_classes_their_rows(tmp_path):
    tiny = {**SMALL, "dim": 16, "depths": (1, 1, 1, 1), "image_size": (32, 32)}
    large, small, other = (HorNet(**{**tiny, "num_classes": classes}) for classes in (10_459, 1000, 999))
    variables, path = filled(large, CHECKPOINT["torch"]), tmp_path / "in22k.safetensors"
    save_pretrained(large, variables, path)
    head, picked = variables["params"]["head"], load_pretrained(small, path)["params"]["head"]
    np.testing.assert_array_equal(load_pretrained(large, path)["params"]["head"]["kernel"], head["kernel"])
    rows = np.argmax(np.asarray(head["bias"])[None] == picked["bias"][:, None], 1)
    np.testing.assert_array_equal(picked["kernel"], head["kernel"][:, rows])
    # in1k_to_21k_map.pth of raoyongming/HorNet at ac9e210
    assert len(set(rows)) == 1000 and rows[[0, 152, 500, 850, 999]].tolist() == [209, 10450, 3364, 10458, 10433]
    assert np.dot(np.arange(1, 1001), rows) == 2_559_172_044
    with pytest.raises(CheckpointError, match="num_classes=999"):
        load_pretrained(other, path)


def test_heads_of_imagenet_22k_have_the_published_millions_of_parameters():
    millions = {"hornet_large_7x7": 209, "hornet_large_gf": 211, "hornet_large_gf_img384": 216}
    more = (imagenet22k.CLASSES - 1000) * (8 * 192 + 1)
    assert {name: round((VARIANTS[name].parameters + more) / 1e6) for name in millions} == millions


def test_images_that_vanish_and_channels_that_do_not_halve_are_refused():
    with pytest.raises(ModelError, match="at least 32, got 64x31"):
        jax.eval_shape(lambda: create_model("hornet_tiny_7x7").init(jax.random.key(0), jnp.zeros((1, 64, 31, 3))))
    with pytest.raises(ModelError, match="24 channels 4 times"):
        jax.eval_shape(lambda: GnConv(5).init(jax.random.key(0), jnp.zeros((1, 8, 8, 24))))
