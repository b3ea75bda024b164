import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.convit import CHECKPOINT, ConViT, GatedPositionalAttention, local_kernel, offsets
from tests.reference_weights import filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "convit.npz")
SMALL = {"num_classes": 10, "dim": 32, "depth": 4, "heads": 4, "local_layers": 2}


def test_logits_and_maps_agree_with_timm():
    model = ConViT(image_size=(64, 64), **SMALL)
    variables, image = filled(model, CHECKPOINT["torch"]), np.random.RandomState(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    logits, maps = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="stages")))(variables, image)
    assert relative_error(logits, GOLDEN["logits"]) < 1e-5
    for i, ours in enumerate(maps):
        assert relative_error(ours[..., :8], GOLDEN[f"stage{i}"]) < 1e-5


@pytest.mark.parametrize("heads", [4, 9])
def test_heads_start_as_the_offsets_of_a_convolution(heads):
    ours = local_kernel(heads, 2.0)(jax.random.key(0), (3, heads))
    np.testing.assert_array_equal(ours.T, GOLDEN[f"local{heads}"])


def test_a_sharp_positional_head_copies_one_neighbour_and_clamps_at_the_border():
    layer, rows, columns = GatedPositionalAttention(9, (4, 6), locality_strength=46.0), 4, 6
    x = np.random.RandomState(0).standard_normal((1, rows * columns, 18)).astype(np.float32)
    params = layer.init(jax.random.key(0), x)["params"]
    params["gating_param"] = jnp.full(9, 1e4)
    params["proj"] = {"kernel": jnp.eye(18), "bias": jnp.zeros(18)}
    answer = np.asarray(layer.apply({"params": params}, x)).reshape(rows, columns, 9, 2)
    image = x.reshape(rows, columns, 9, 2)
    for head in range(9):
        down, right = head % 3 - 1, head // 3 - 1
        y, z = np.clip(np.arange(rows) + down, 0, rows - 1), np.clip(np.arange(columns) + right, 0, columns - 1)
        np.testing.assert_allclose(answer[:, :, head], image[y][:, z, head], atol=1e-5, err_msg=str(head))


@pytest.mark.parametrize("heads, distance", [(4, 0.99), (9, 1.26), (16, 1.56)])
def test_positions_start_near(heads, distance):
    r = offsets(14, 14)
    weights = jax.nn.softmax(r @ local_kernel(heads, 1.0)(jax.random.key(0), (3, heads)), axis=1)
    assert float((weights * np.sqrt(r[..., 2:])).sum(1).mean()) == pytest.approx(distance, abs=0.01)


def test_images_of_another_size_and_widths_that_do_not_divide_are_refused():
    image = jnp.zeros((1, 32, 48, 3))
    for message, fields in (("image_size=\\(32, 48\\)", {}), ("does not divide", {"heads": 5}), ("at most 3", {"local_layers": 4})):
        size = (32, 32) if not fields else (32, 48)
        with pytest.raises(ModelError, match=message):
            jax.eval_shape(lambda size=size, fields=fields: ConViT(image_size=size, **{**SMALL, **fields}).init(jax.random.key(0), image))
