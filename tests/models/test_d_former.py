import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.complexity import complexity
from jaxvision.models.d_former import CHECKPOINT, Stage
from jaxvision.models.registry import count_parameters, create_model, shapes_of
from jaxvision.tasks.base import count
from tests.reference_weights import filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[1] / "golden" / "d_former.npz")
CASES = {
    # Padding of every kind: rows, columns and depth of local and dilated groups.
    "padded": {"dim": 4, "patch": (1, 1, 1), "group": (2, 8, 4), "intervals": (8, 8, 4, 1)},
    # 20 rows at a stride of 2: groups of 10 where 8 were asked for.
    "strided": {"dim": 4, "patch": (1, 1, 1), "group": (2, 8, 4)},
    # Depth alone is padded, which dilated groups see.
    "deep": {"dim": 4, "patch": (1, 1, 1), "group": (2, 4, 4), "intervals": (16, 4, 2, 1)},
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_decoder_maps_agree_with_the_released_code(case):
    size = tuple(GOLDEN[f"{case}/size"].tolist())
    model = create_model("d_former", 14, size, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), **CASES[case])
    volume = np.random.RandomState(0).standard_normal((1, 1, *size)).astype(np.float32)[:, 0, ..., None]
    run = jax.jit(lambda v, x: (model.apply(v, x, method="outputs"), model.apply(v, x, method="stages")))
    outputs, maps = run(filled(model, CHECKPOINT["torch"], channels=1), volume)
    assert [y.shape[1:4] for y in outputs] == [tuple(side // 2**i for side in size) for i in range(3)]
    # The released forward leaves the coarsest of its three outputs out.
    for i in range(2):
        assert relative_error(outputs[i][:, ::2, ::3, ::3, ::4], GOLDEN[f"{case}/output{i}"]) < 5e-5
    for i in range(3):
        kept = GOLDEN[f"{case}/stage{i}"]
        assert relative_error(maps[i][:, ::2, ::3, ::3, : kept.shape[-1]], kept) < 5e-5


def test_parameters_maps_and_cost_of_the_released_network():
    assert count_parameters("d_former", 14) == 50_557_248
    backbone = {name: tree for name, tree in shapes_of(create_model("d_former", 14), 1)["params"].items() if not name.startswith("final")}
    assert count(backbone) == 44_353_344
    model = create_model("d_former", 14)
    maps = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="stages"), shapes_of(model, 1), jax.ShapeDtypeStruct((1, 64, 128, 128, 1), jnp.float32)
    )
    assert [leaf.shape[1:] for leaf in maps] == [(32, 32, 32, 96), (16, 16, 16, 192), (8, 8, 8, 384)]
    assert complexity(model, 1).flops == pytest.approx(60.42e9, rel=1e-4)


@pytest.mark.parametrize("size", [(7, 18, 22)])
def test_volumes_that_the_released_code_refuses_come_back_at_their_own_size(size):
    model = create_model("d_former_demo", 3, size, dtype="bfloat16", remat=True, drop_path=0.1)

    def loss(variables, volume):
        (finest,) = model.apply(variables, volume, method="outputs", train=True, rngs={"dropout": jax.random.key(0)})
        return finest.sum(), finest

    given = shapes_of(model, 1), jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    grads, finest = jax.eval_shape(jax.grad(loss, has_aux=True), *given)
    assert (finest.shape, finest.dtype) == ((2, *size, 3), jnp.float32) and grads["params"]["norm"]["scale"].dtype == jnp.float32


@pytest.mark.parametrize("second, seen", [("global", 1792), ("local", 75)])
def test_one_pair_of_blocks_sees_most_of_the_volume_and_two_local_ones_their_neighbours(second, seen):
    stage = Stage(2, (0.0, 0.0), (2, 4, 4), 4, second, 2.0, False)
    x = jnp.asarray(np.random.RandomState(0).normal(size=(1, 8, 16, 16, 8)).astype(np.float32))
    variables = jax.jit(lambda x: stage.init(jax.random.key(0), x, False))(x)
    corner = jax.jit(jax.grad(lambda x: (stage.apply(variables, x, False)[0, 0, 0, 0] * jnp.arange(8.0)).sum()))(x)
    assert np.count_nonzero(np.abs(corner[0]).max(-1)) == seen


def test_an_unknown_second_block_is_one_line():
    with pytest.raises(ModelError, match="did you mean 'global'"):
        shapes_of(create_model("d_former_demo", 3, second="globl"), 1)
