import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.inception_next import CHECKPOINT, InceptionMixer
from jaxvision.models.registry import create_model, shapes_of
from tests.models.convnet_golden import worst_error

DIMS = {"num_classes": 10, "dims": (16, 32, 48, 64)}


@pytest.mark.parametrize(
    "case, name, size, depths", [("tiny", "inception_next_tiny", (71, 45), (1, 1, 2, 1)), ("atto", "inception_next_atto", (64, 40), (1, 1, 1, 1))]
)
def test_logits_and_stages_agree_with_timm(case, name, size, depths):
    model = create_model(name, image_size=size, depths=depths, **DIMS)
    assert worst_error("inception_next", case, model, CHECKPOINT["torch"]) < 1e-5


def test_each_group_of_channels_sees_its_own_shape_of_neighbourhood():
    mixer, image = InceptionMixer(), np.zeros((1, 25, 25, 16), np.float32)
    image[0, 12, 12] = 1
    variables = jax.tree.map(jnp.ones_like, mixer.init(jax.random.key(0), image))
    variables["params"] = {name: {**leaves, "bias": 0 * leaves["bias"]} for name, leaves in variables["params"].items()}
    answer = np.asarray(mixer.apply(variables, image))[0]
    seen = {group: np.zeros((25, 25)) for group in ("rest", "square", "row", "column")}
    seen["rest"][12, 12] = seen["square"][11:14, 11:14] = seen["row"][12, 7:18] = seen["column"][7:18, 12] = 1
    for group, channels in (("rest", range(10)), ("square", (10, 11)), ("row", (12, 13)), ("column", (14, 15))):
        for channel in channels:
            np.testing.assert_array_equal(answer[..., channel], seen[group], err_msg=group)


def test_training_moves_the_statistics_and_half_precision_keeps_float32_logits():
    model = create_model("inception_next_tiny", image_size=(32, 64), depths=(1, 1, 1, 1), drop_path=0.5, remat=True, dtype=jnp.bfloat16, **DIMS)
    shapes = shapes_of(model)
    logits, moved = jax.eval_shape(
        lambda v, x, key: model.apply(v, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]),
        shapes, jax.ShapeDtypeStruct((4, 32, 64, 3), jnp.float32), jax.random.key(0),
    )  # fmt: skip
    assert logits.shape == (4, 10) and logits.dtype == jnp.float32
    assert jax.tree.structure(moved["batch_stats"]) == jax.tree.structure(shapes["batch_stats"])


def test_images_that_vanish_and_shares_that_leave_nothing_are_refused():
    with pytest.raises(ModelError, match="at least 32, got 31x64"):
        jax.eval_shape(lambda: create_model("inception_next_tiny").init(jax.random.key(0), jnp.zeros((1, 31, 64, 3))))
    with pytest.raises(ModelError, match="between 1/16 and 1/3"):
        jax.eval_shape(lambda: InceptionMixer(share=0.4).init(jax.random.key(0), jnp.zeros((1, 8, 8, 16))))
