import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.inception_resnet import CHECKPOINT, Block
from jaxvision.models.inception_v4 import conv_unit
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.nn.branches import Step
from tests.models.convnet_golden import worst_error


def test_one_block_of_each_kind_of_v2_agrees_with_timm_at_a_non_square_size():
    model = create_model("inception_resnet_v2", num_classes=10, image_size=(110, 81), depths=(1, 1, 1))
    assert worst_error("inception_resnet", "shallow_v2", model, CHECKPOINT["torch"]) < 1e-4


@pytest.mark.parametrize(
    "name, channels", [("inception_resnet_v1", (192, 256, 896, 1792)), ("inception_resnet_v2_drawn", (160, 384, 1152, 2144))]
)
def test_versions_drawn_in_the_paper_have_its_maps(name, channels):
    model = create_model(name, depths=(1, 1, 1), num_classes=0)
    maps = jax.eval_shape(lambda key, x: model.init_with_output(key, x, method="stages")[0], jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    sides = (71 if name.endswith("v1") else 73, 35, 17, 8)
    assert [m.shape[1:] for m in maps] == [(side, side, c) for side, c in zip(sides, channels)]


def test_the_branch_is_scaled_before_the_sum_and_the_activation():
    unit = conv_unit(jnp.float32, jnp.float32, 0.99, 1)
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 4, 4, 8)), jnp.float32)

    @jax.jit
    def run(key, x):
        variables = Block(((Step(1, 1, 4),),), unit, 0.0).init(key, x, False)
        return [Block(((Step(1, 1, 4),),), unit, scale, activation=None).apply(variables, x, False) for scale in (0.0, 0.1, 1.0)]

    none, tenth, whole = run(jax.random.key(0), x)
    np.testing.assert_allclose(none, x)
    np.testing.assert_allclose(tenth - x, 0.1 * (whole - x), atol=1e-6)
    assert np.abs(whole - x).max() > 0.1


def test_an_unknown_version_and_a_small_image_are_refused():
    with pytest.raises(ModelError, match="did you mean 'v2"):
        shapes_of(create_model("inception_resnet_v2", version="v22"))
    with pytest.raises(ModelError, match="image_size 60x80 is too small"):
        shapes_of(create_model("inception_resnet_v2", image_size=(60, 80)))
