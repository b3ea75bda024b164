import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.mlp_mixer import CHECKPOINT
from jaxvision.models.registry import create_model
from jaxvision.models.scanned import stack_blocks
from tests.reference_weights import filled, relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "mlp_mixer.npz"


def tiny(**fields):
    return create_model("mixer_s16_224", **{"num_classes": 5, "image_size": (6, 8), "patch": 2, "dim": 16, "depth": 5, **fields})


def image(*shape):
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name, size", [("mixer_s16_224", (48, 80)), ("mixer_b32_224", (64, 96))])
def test_outputs_and_stage_maps_are_those_of_timm(name, size):
    golden = np.load(GOLDEN)
    model = create_model(name, num_classes=10, image_size=size, depth=2)
    variables = filled(model, CHECKPOINT["torch"])
    logits, maps = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="stages")))(variables, image(2, *size, 3))
    assert relative_error(logits, golden[f"{name}/logits"]) < 1e-5
    assert len(maps) == 2
    for i, ours in enumerate(maps):
        assert relative_error(ours[..., :8], golden[f"{name}/stage{i}"]) < 1e-5


def test_scan_remat_and_bfloat16_agree_with_the_plain_model():
    x = image(2, 6, 8, 3)
    variables = filled(tiny(), CHECKPOINT["torch"])
    exact = jax.jit(tiny().apply)(variables, x)
    stacked = {"params": stack_blocks(variables["params"])}
    np.testing.assert_allclose(jax.jit(tiny(scan=True, remat=True).apply)(stacked, x), exact, rtol=1e-4, atol=1e-5)
    half = jax.jit(tiny(dtype="bfloat16").apply)(variables, x)
    assert half.dtype == jnp.float32 and 0 < relative_error(half, exact) < 0.05


def test_a_token_sees_the_others_only_through_the_token_mlp():
    model, x = tiny(depth=1), image(1, 6, 8, 3)
    variables = filled(model, CHECKPOINT["torch"])
    moved = x.copy()
    moved[0, 0, 0] += 1
    last = jax.jit(lambda variables, x: model.apply(variables, x, method="stages")[0])
    far = lambda variables: np.abs(np.asarray(last(variables, moved) - last(variables, x)))[0, 2, 3].max()
    assert far(variables) > 1e-4
    variables["params"]["blocks_0"]["mlp_tokens"]["fc2"]["kernel"] *= 0
    assert far(variables) == 0


def test_four_stages_end_the_quarters_of_the_depth():
    maps = jax.eval_shape(lambda x: tiny().init_with_output(jax.random.key(0), x, method="stages")[0], jnp.zeros((2, 6, 8, 1)))
    assert [m.shape for m in maps] == [(2, 3, 4, 16)] * 4


def test_another_image_size_is_refused_in_one_line():
    with pytest.raises(ModelError, match=r"create the model with image_size=\(8, 8\)"):
        jax.eval_shape(tiny().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(ModelError, match="multiples"):
        jax.eval_shape(tiny(image_size=(7, 8)).init, jax.random.key(0), jnp.zeros((1, 7, 8, 3)))
