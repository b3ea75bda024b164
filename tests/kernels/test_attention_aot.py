import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.kernels.attention import self_attention
from jaxvision.train.preflight.topology import open_topology

pytestmark = [pytest.mark.aot, pytest.mark.timeout(300)]
EXCHANGES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def loss(w, offset, bias, x):
    return jnp.square(self_attention(x @ w, 4, bias, offset=offset)).astype(jnp.float32).mean()


def shapes(*lead):
    """Kernel, offset, biases of two windows, and a batch with these axes before the tokens; 4 heads of 32."""
    wide = jnp.bfloat16
    kinds = ((128, 384), wide), ((384,), wide), ((2, 4, 50, 50), jnp.float32), ((*lead, 50, 128), wide)
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in kinds]


def compiled(f, arguments, given, taken):
    """Text of the program for a slice of 2x2, where the batch is cut along "data"; `given` and `taken` say how arguments and results lie."""
    devices = open_topology("v5e:2x2").devices
    mesh = jax.make_mesh((4, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)
    lie = lambda specs: tuple(NamedSharding(mesh, spec) for spec in specs)
    with jax.set_mesh(mesh):
        arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s) for x, s in zip(arguments, lie(given))]
        return jax.jit(f, in_shardings=lie(given), out_shardings=lie(taken)).lower(*arguments).compile().as_text()


def test_a_sharded_batch_stays_where_it_is_and_gradients_of_what_is_shared_are_summed():
    text = compiled(jax.grad(loss, (0, 1, 2)), shapes(32), (P(), P(), P(), P("data")), (P(),) * 3)
    assert text.count('"tpu_custom_call"') == 2 and " all-reduce" in text
    assert not any(f" {name}" in text for name in EXCHANGES)


def test_gradients_mapped_over_sharded_groups_exchange_nothing_at_all():
    mapped = jax.vmap(jax.grad(loss, (0, 1, 2)), (None, None, None, 0))
    text = compiled(mapped, shapes(8, 8), (P(), P(), P(), P("data")), (P("data"),) * 3)
    assert text.count('"tpu_custom_call"') == 2
    assert not any(f" {name}" in text for name in (*EXCHANGES, "all-reduce"))


def test_groups_inside_a_shard_map_over_the_axes_of_the_batch():
    """As optim/rules.py goes through them: the other axes of the mesh stay with the compiler."""

    def of_shard(w, offset, bias, x):
        parts = [jax.grad(loss, (0, 1, 2))(w, offset, bias, block) for block in (x[:4], x[4:])]
        return jax.tree.map(lambda *g: jax.lax.psum(sum(g), ("data",)), *parts)

    groups = functools.partial(jax.shard_map, axis_names={"data"}, check_vma=False)
    text = compiled(
        groups(of_shard, in_specs=(P(), P(), P(), P("data")), out_specs=P()), shapes(32), (P(), P(), P(), P("data")), (P(),) * 3
    )
    assert text.count('"tpu_custom_call"') == 4
    assert not any(f" {name}" in text for name in EXCHANGES)


CHIPS = ("v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x1")
# Tokens, heads, width, biases.
SHORT = {"ViT-S": (197, 6, 64, 0), "Swin-T": (49, 3, 32, 4)}
LONG = {"BEiT-B, 577 tokens": (577, 12, 64, 1), "4096 tokens": (4096, 12, 64, 0), "8192 tokens": (8192, 2, 80, 0)}
EACH = [pytest.param(chip, *shape, id=f"{name}-{chip}") for name, shape in SHORT.items() for chip in CHIPS]
EACH += [pytest.param(chip, *shape, id=f"{name}-{chip}") for name, shape in LONG.items() for chip in CHIPS[:2]]


@pytest.mark.parametrize("topology, tokens, heads, width, biases", EACH)
def test_both_passes_compile_for_every_generation(topology, tokens, heads, width, biases):
    open_topology("v5e:1x1")  # loads the compiler, which knows chips that preflight has no data sheet of
    device = jax.sharding.SingleDeviceSharding(topologies.get_topology_desc(topology, "tpu").devices[0])
    kinds = [((8, tokens, 3 * heads * width), jnp.bfloat16), ((3 * heads * width,), jnp.bfloat16)]
    kinds += [((biases, heads, tokens, tokens), jnp.float32)] if biases else []

    def total(qkv, offset, *bias):
        return self_attention(qkv, heads, *bias, offset=offset).astype(jnp.float32).sum()

    gradients = jax.grad(total, tuple(range(len(kinds))))
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in kinds]
    lowered = jax.jit(gradients, in_shardings=device, out_shardings=device).trace(*arguments).lower(lowering_platforms=("tpu",))
    # The forward pass's result is not asked for, but by the two kernels of flash attention's backward pass.
    assert lowered.compile().as_text().count('"tpu_custom_call"') == (3 if tokens == 8192 else 1)


def test_a_long_sequence_s_batch_stays_where_it_is_too():
    kinds = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((256, 768), (768,), (8, 1600, 256))]
    text = compiled(jax.grad(lambda w, offset, x: loss(w, offset, None, x), (0, 1)), kinds, (P(), P(), P("data")), (P(),) * 2)
    assert text.count('"tpu_custom_call"') == 2 and " all-reduce" in text
    assert not any(f" {name}" in text for name in EXCHANGES)
