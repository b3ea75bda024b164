import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ConfigError
from jaxvision.train.mesh import batch_shards, check_batch, make_mesh, state_shardings


def test_the_free_axis_takes_the_devices_that_are_left():
    mesh = make_mesh({"data": -1, "fsdp": 2, "tensor": 1})
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1} and batch_shards(mesh) == 8
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (4, 4, 1), (-1, 5, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(ConfigError, match="8 devices"):
        make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes)))


def test_fsdp_cuts_the_largest_divisible_axis_of_large_leaves_only():
    mesh = make_mesh({"data": -1, "fsdp": 2, "tensor": 1})
    shapes = {"kernel": jax.ShapeDtypeStruct((128, 384), jnp.float32), "odd": jax.ShapeDtypeStruct((129, 383), jnp.float32), "bias": jnp.zeros(384)}
    specs = {name: sharding.spec for name, sharding in state_shardings(shapes, mesh).items()}
    assert specs == {"kernel": P(None, "fsdp"), "odd": P(None, None), "bias": P(None)}


def test_tensor_rules_meet_in_the_middle_of_a_block_and_reach_optimizer_slots():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    leaf = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    tree = {"mu": {"blocks_0": {"mlp": {"fc1": {"kernel": leaf}, "fc2": {"kernel": leaf}}}}}
    specs = jax.tree.map(lambda sharding: sharding.spec, state_shardings(tree, mesh))
    mlp = specs["mu"]["blocks_0"]["mlp"]
    assert mlp["fc1"]["kernel"] == P("fsdp", "tensor") and mlp["fc2"]["kernel"] == P("tensor", "fsdp")


def test_a_rule_for_an_unknown_axis_is_refused():
    with pytest.raises(ConfigError, match="expert"):
        state_shardings({"w": jnp.zeros((4, 4))}, make_mesh({"data": -1, "fsdp": 1, "tensor": 1}), ((r"w$", ("expert", None)),))


def test_a_batch_that_does_not_divide_names_the_nearest_that_would():
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    check_batch(64, mesh, accumulate=4)
    with pytest.raises(ConfigError, match="24 or 32"):
        check_batch(30, mesh)
