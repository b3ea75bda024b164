"""The kernel table."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.errors import ConfigError
from jaxvision.kernels.cases import Case, spec
from jaxvision.train import bench as room
from jaxvision.train.config import complete, load_config


def product(x, w, *, implementation):
    return x @ w if implementation == "reference" else x @ w + 0.0 * jnp.sin(x).sum()


def arguments(batch, dtype):
    return spec(batch, 16, dtype=dtype), spec(16, 8, dtype=dtype)


CASE = Case("tiny", product, arguments)


@pytest.mark.parametrize("op", room.ops_with_cases())
def test_both_arms_of_every_declared_case_give_arrays_of_one_shape(op):
    for case in room.cases_of(op):
        kinds = case.arguments(2, jnp.dtype("bfloat16"))
        first, second = (
            jax.eval_shape(lambda *arrays, choice=choice, case=case: case.call(*arrays, implementation=choice), *kinds)
            for choice in ("reference", None)
        )
        assert jax.tree.map(lambda a, b: a.shape == b.shape, first, second), case.name


def test_bytes_and_operations_that_a_call_needs():
    forward = room.needs(CASE, "forward", arguments(4, jnp.dtype("float32")), 4)
    assert forward == (4.0 * (4 * 16 + 16 * 8 + 4 * 8), 2.0 * 4 * 16 * 8)
    moved, flops = room.needs(CASE, "gradients", arguments(4, jnp.dtype("float32")), 4)
    assert flops == 3 * forward[1] and moved == 2 * forward[0] + 4.0 * (4 * 16 + 16 * 8)
    stated = Case("stated", product, arguments, flops=lambda batch: 7.0 * batch)
    assert room.needs(stated, "forward", arguments(4, jnp.dtype("float32")), 4)[1] == 28.0


def test_table_of_this_device_has_both_passes_and_tells_equal_programs(monkeypatch):
    same = Case("same", lambda x, w, *, implementation: x @ w, arguments)
    monkeypatch.setattr(room, "ops_chosen", lambda names: ("op",))
    monkeypatch.setattr(room, "cases_of", lambda op: (CASE, same))
    monkeypatch.setattr(room, "_cpu_peak", lambda: (1e9, 1e9))
    lines = []
    rows = room.bench(complete({"steps": 1, "bench": {"rounds": 1}}), report=lines.append)
    assert [(row.case, row.what, row.same) for row in rows] == [
        ("tiny", "forward", False),
        ("tiny", "gradients", False),
        ("same", "forward", True),
        ("same", "gradients", True),
    ]
    assert all(row.reference > 0 and row.ours > 0 for row in rows)
    # 4 x (64 + 128 + 32) bytes at 1 GB/s.
    assert rows[0].floor == pytest.approx(1024e-9)
    assert "measured on cpu" in lines[1] and lines[2].startswith("op ") and "tiny" in lines[2]


def test_a_program_that_does_not_fit_is_a_remark_and_the_table_goes_on(monkeypatch):
    def call(x, w, *, implementation):
        y = x @ w
        return y + jnp.sort(y[0, 0] * jnp.ones((2**21, 2**21)).cumsum(1))[0, 0] if implementation == "reference" else y

    monkeypatch.setattr(room, "ops_chosen", lambda names: ("op",))
    monkeypatch.setattr(room, "cases_of", lambda op: (Case("large", call, arguments, flops=float), CASE))
    monkeypatch.setattr(room, "_cpu_peak", lambda: (1e9, 1e9))
    monkeypatch.setattr(room, "passes", lambda case, passes=room.passes: [next(passes(case))])
    lines = []
    large, tiny = room.bench(complete({"steps": 1, "bench": {"rounds": 1}}), report=lines.append)
    assert large.reference is None and large.ratio is None and large.ours > 0 and large.remark == "reference does not fit"
    assert tiny.ratio > 0 and "(reference does not fit)" in lines[2]


def test_config_takes_ops_and_refuses_those_without_cases():
    assert load_config("configs/bench_kernels.py:conv,depthwise_conv").bench.ops == ("conv", "depthwise_conv")
    assert room.ops_chosen(("conv",)) == ("conv",)
    with pytest.raises(ConfigError, match=r"'bench.ops' has 'convs'.*did you mean"):
        room.ops_chosen(("convs",))
