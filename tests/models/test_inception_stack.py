import jax
import jax.numpy as jnp
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.inception_stack import InceptionStack
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.trees import named_leaves
from tests.models.counting import parameter_sizes


def test_plain_and_residual_blocks_have_the_channels_of_the_comparison():
    shapes = lambda name: named_leaves(shapes_of(create_model(name, num_classes=10), 1)["params"])
    plain, residual = shapes("inception_stack"), shapes("inception_resnet_stack")
    assert plain["blocks_0/branch2_2/conv/kernel"].shape == (3, 3, 8, 8) and plain["blocks_15/branch3_1/conv/kernel"].shape == (1, 1, 32, 8)
    assert residual["blocks_0/conv2d/kernel"].shape == (1, 1, 24, 32) and residual["blocks_0/conv2d/bias"].shape == (32,)
    assert not any(name.startswith("blocks_16") or "branch3" in name for name in residual)


def test_a_residual_stack_of_scale_zero_is_its_stem():
    model = InceptionStack(num_classes=0, depth=2, scale=0.0)
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    variables = model.init(jax.random.key(1), image)
    deep = model.apply(variables, image)
    shallow = InceptionStack(num_classes=0, depth=0, scale=0.0).apply(variables, image)
    assert deep.shape == (2, 32) and jnp.abs(deep - shallow).max() < 1e-6


def test_a_width_without_quarters_is_refused():
    with pytest.raises(ModelError, match="not a multiple of 4"):
        shapes_of(InceptionStack(width=30), 1)


def test_the_released_widths_with_the_blocks_of_the_figures_have_the_known_count():
    model = create_model("inception_resnet_v2", depths=(5, 10, 4))
    assert sum(parameter_sizes(model, (1, 299, 299, 3), {}).values()) == 33_782_664
