"""Checkpoints survive kills, full disks and damage, and give back exactly what was saved."""

import errno
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import CheckpointError, ConfigError
from jaxvision.tasks.state import TrainState
from jaxvision.train import arrays, manifest
from jaxvision.train.checkpoint import Checkpoints, describe_changes


def mesh_of(count):
    return jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))


def small_state(seed=0, frozen=None):
    random_state = np.random.RandomState(seed)
    draw = lambda *shape, dtype=jnp.float32: jnp.asarray(random_state.randn(*shape), dtype)
    params = {"stem": {"kernel": draw(8, 4)}, "head": {"bias": draw(8, dtype=jnp.bfloat16)}}
    extra = {"batch_stats": {"mean": draw(4)}, "queue": {}}
    opt_state = {"main": optax.adamw(1e-3).init(params)}
    return TrainState(jnp.int32(seed), jax.random.key(seed), params, opt_state, extra, frozen or {})


def like(state, sharding=None):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def raw(leaf):
    return np.asarray(jax.random.key_data(leaf) if arrays.is_key(leaf) else leaf)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert raw(x).tobytes() == raw(y).tobytes()


def saved(folder, *steps, metrics=None, **options):
    """Checkpoints of a numbered state for each step, on the disk."""
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(small_state(step), {"position": 10 * step}, step=step, metrics=metrics and metrics[step])
    checkpoints.wait()
    return checkpoints


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


# What was saved comes back


def test_a_state_comes_back_to_the_bit_with_its_random_key_and_its_structure(tmp_path):
    state = small_state(3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"position": 128, "classes": ("cat", "dog"), "mean": np.float32(0.5), "rows": np.arange(3)}, step=3)
    restored, meta = Checkpoints(tmp_path).restore(like(state)) if checkpoints.wait() is None else None
    assert_same(restored, state)
    assert jax.random.bits(restored.key) == jax.random.bits(state.key)
    assert meta == {"position": 128, "classes": ["cat", "dog"], "mean": 0.5, "rows": [0, 1, 2]}


def test_without_a_tree_the_arrays_come_back_as_nested_dicts_of_numpy(tmp_path):
    checkpoints = saved(tmp_path, 2)
    state, meta = checkpoints.restore(None)
    assert isinstance(state["params"]["stem"]["kernel"], np.ndarray) and state["params"]["head"]["bias"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(state["params"]["stem"]["kernel"], small_state(2).params["stem"]["kernel"])
    np.testing.assert_array_equal(state["opt_state"]["main"]["0"]["count"], 0)
    assert jnp.issubdtype(state["key"].dtype, jax.dtypes.prng_key) and meta == {"position": 20}
    assert set(checkpoints.restore(None, only=("params",))[0]) == {"params"}


def test_arrays_sharded_over_eight_devices_come_back_on_two_and_on_one(tmp_path):
    state = small_state(1)
    spread = lambda count: NamedSharding(mesh_of(count), P())
    rows = NamedSharding(mesh_of(8), P("data"))
    placed = jax.device_put(state, spread(8))
    placed.params["stem"]["kernel"] = jax.device_put(state.params["stem"]["kernel"], rows)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(placed, {}, step=1)
    for count in (2, 1):
        wanted = like(state, spread(count))
        wanted.params["stem"]["kernel"] = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(mesh_of(count), P("data")))
        restored, _ = checkpoints.restore(wanted)
        assert_same(restored, state)
        assert restored.params["stem"]["kernel"].sharding == NamedSharding(mesh_of(count), P("data"))
        assert restored.key.sharding.is_equivalent_to(spread(count), 0)


def test_a_state_that_is_donated_and_overwritten_right_after_save_is_saved_as_it_was(tmp_path, monkeypatch):
    overwritten = threading.Event()
    original = arrays.writer_of

    def slow(*given):
        write = original(*given)
        return lambda: (overwritten.wait(), write())

    monkeypatch.setattr(arrays, "writer_of", slow)
    state = {"device": jnp.arange(4096.0), "host": np.arange(5.0)}
    place = state["device"].unsafe_buffer_pointer()
    step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {}, step=1)
    after = step(state["device"]).block_until_ready()
    state["host"][:] = -1
    assert after.unsafe_buffer_pointer() == place, "save kept a view of the buffer, so that donation could not reuse it"
    overwritten.set()
    restored, _ = checkpoints.restore(None)
    np.testing.assert_array_equal(restored["device"], np.arange(4096.0))
    np.testing.assert_array_equal(restored["host"], np.arange(5.0))


def test_saving_does_not_trip_a_transfer_guard(tmp_path):
    state, checkpoints = small_state(1), Checkpoints(tmp_path)
    with jax.transfer_guard("disallow"):
        checkpoints.save(state, {}, step=1)
        checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_frozen_networks_are_left_out_unless_asked_for(tmp_path):
    frozen = {"teacher": {"params": {"w": jnp.ones(3)}}, "other": {"params": {"w": jnp.ones(4)}}}
    state = small_state(1, frozen)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {}, step=1)
    assert_same(checkpoints.restore(like(state))[0], state.replace(frozen={}))
    checkpoints.save(state, {}, step=2, with_frozen=("teacher",))
    assert_same(checkpoints.restore(like(state))[0], state.replace(frozen={"teacher": frozen["teacher"]}))
    assert_same(checkpoints.restore(like(state.replace(frozen={})))[0], state.replace(frozen={}))


def test_an_empty_folder_restores_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "absent")
    assert checkpoints.restore(None) is None and checkpoints.read_meta() is None
    assert checkpoints.steps() == [] and checkpoints.best() is None


def test_a_state_that_does_not_fit_is_refused_with_the_names_of_its_leaves(tmp_path):
    checkpoints = saved(tmp_path, 1)
    wanted = like(small_state(1))
    wanted.params["stem"]["kernel"] = jax.ShapeDtypeStruct((8, 5), jnp.float32)
    del wanted.params["head"]
    wanted.extra["queue"] = {"rows": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(wanted)
    assert "params/stem/kernel is (8, 4), wanted (8, 5)" in str(error.value)
    assert "1 missing: extra/queue/rows (2, 2)" in str(error.value) and "1 left over: params/head/bias (8)" in str(error.value)


# Which ones are kept


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    accuracy = {step: {"test/accuracy": value} for step, value in zip(range(1, 7), (0.1, 0.9, 0.5, 0.3, float("nan"), 0.2), strict=True)}
    checkpoints = saved(tmp_path, *range(1, 7), metrics=accuracy, keep_last=2, keep_best=1)
    assert checkpoints.steps() == [2, 5, 6] and checkpoints.best() == 2
    assert checkpoints.restore(None, "best")[1] == {"position": 20}
    assert checkpoints.restore(None, "last")[1] == checkpoints.restore(None, 6)[1] == {"position": 60}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5", "6"]


def test_best_may_be_the_smallest(tmp_path):
    losses = {1: {"loss": 3.0}, 2: {"loss": 1.0}, 3: {"loss": 2.0}, 4: {}}
    checkpoints = saved(tmp_path, 1, 2, 3, 4, metrics=losses, keep_last=1, keep_best=2, best_metric="loss", best_mode="min")
    assert checkpoints.steps() == [2, 3, 4] and checkpoints.best() == 2


def test_best_without_any_metric_is_the_last(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    assert checkpoints.best() is None and checkpoints.restore(None, "best")[1] == {"position": 20}


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = saved(tmp_path, 1)
    checkpoints.save(small_state(5), {"position": 5}, step=1)
    restored, meta = checkpoints.restore(like(small_state(5)))
    assert meta == {"position": 5} and checkpoints.steps() == [1]
    assert_same(restored, small_state(5))


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="keep_last"):
        Checkpoints(tmp_path, keep_last=0)
    with pytest.raises(ConfigError, match="best_mode"):
        Checkpoints(tmp_path, best_mode="most")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        Checkpoints(tmp_path / "file")


# Damage


@pytest.mark.parametrize("harm, says", [(flip_a_bit, "has checksum"), (truncate, "bytes, should have"), (pathlib.Path.unlink, "is missing")])
def test_damage_to_the_newest_is_reported_and_the_previous_one_used(tmp_path, harm, says):
    saved(tmp_path, 1, 2)
    harm(largest_file(tmp_path / "2" / "arrays"))
    lines = []
    checkpoints = Checkpoints(tmp_path, report=lines.append)
    restored, meta = checkpoints.restore(like(small_state(1)))
    assert meta == {"position": 10}
    assert_same(restored, small_state(1))
    assert len(lines) == 1 and says in lines[0] and "checkpoint 2 " in lines[0] and lines[0].endswith("checkpoint 1 is used in its place")


@pytest.mark.parametrize("name", ["meta.json", "manifest.json"])
def test_a_damaged_or_missing_description_is_noticed_too(tmp_path, name):
    saved(tmp_path, 1, 2, 3)
    lines = []
    flip_a_bit(tmp_path / "3" / name)
    (tmp_path / "2" / name).unlink(missing_ok=True)
    checkpoints = Checkpoints(tmp_path, report=lines.append)
    with pytest.raises(CheckpointError, match="no other of 2 is whole"):
        checkpoints.restore(None)


def test_a_damaged_best_one_gives_way_to_the_next_best(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, metrics={step: {"test/accuracy": value} for step, value in {1: 0.7, 2: 0.9, 3: 0.1, 4: 0.2}.items()}, keep_best=2)
    truncate(largest_file(tmp_path / "2" / "arrays"))
    lines = []
    checkpoints = Checkpoints(tmp_path, report=lines.append)
    assert checkpoints.restore(None, "best")[1] == {"position": 10}
    assert checkpoints.best() == 1 and "checkpoint 2" in lines[0]


def test_one_asked_for_by_number_is_never_replaced_by_another(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    with pytest.raises(CheckpointError, match=r"checkpoint 5 .* there is none of this step; others there: 1, 2"):
        checkpoints.restore(None, 5)
    flip_a_bit(largest_file(tmp_path / "2" / "arrays"))
    with pytest.raises(CheckpointError, match=r"checkpoint 2 .* has checksum .*; others there: 1"):
        checkpoints.restore(None, 2)
    with pytest.raises(CheckpointError, match="'newest' is unknown"):
        checkpoints.restore(None, "newest")


def test_a_damaged_one_does_not_push_out_a_good_one(tmp_path):
    saved(tmp_path, 1, 2, 3)
    flip_a_bit(largest_file(tmp_path / "3" / "arrays"))
    checkpoints = Checkpoints(tmp_path, keep_last=2, report=lambda line: None)
    checkpoints.restore(None)
    checkpoints.save(small_state(4), {"position": 40}, step=4)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4]
    checkpoints.save(small_state(3), {"position": 30}, step=3)
    assert checkpoints.restore(None, 3)[1] == {"position": 30}


# Kills


def test_leftovers_of_a_kill_are_removed_and_never_taken_for_checkpoints(tmp_path):
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.tmp-1")
    (tmp_path / "2.tmp-1" / "manifest.json").unlink()
    shutil.copytree(tmp_path / "1", tmp_path / "1.tmp-old")
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps() == [1] and (tmp_path / "2.tmp-1").exists(), "a reader must not disturb a run that is writing"
    with pytest.raises(CheckpointError, match="for reading"):
        reader.save({}, {}, step=3)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1] and [path.name for path in tmp_path.iterdir()] == ["1"]


def test_one_that_was_killed_between_its_manifest_and_its_name_is_used(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "1").rename(tmp_path / "1.tmp-1")
    lines = []
    assert Checkpoints(tmp_path, report=lines.append).restore(None)[1] == {"position": 10}
    assert len(lines) == 1


KILLED = """
import sys, numpy as np
from jaxvision.train.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], report=lambda line: print(line, file=sys.stderr))
for step in range(checkpoints.read_meta()["step"] + 1 if checkpoints.steps() else 1, 10**6):
    checkpoints.save({"w": np.full(200_000, step, np.float32), "step": np.int32(step)}, {"step": step}, step=step)
    print(step, flush=True)
"""


def test_sigkill_at_a_random_moment_leaves_only_whole_checkpoints(tmp_path):
    last, command = 0, [sys.executable, "-c", KILLED, str(tmp_path)]
    for _ in range(2):
        run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
        try:
            for _ in range(4):
                last_begun = int(run.stdout.readline())
            time.sleep(random.random() * 0.3)
        finally:
            run.send_signal(signal.SIGKILL)
            run.wait()
            run.stdout.close()
        complete = Checkpoints(tmp_path, read_only=True).steps()
        assert 1 <= len(complete) <= 3 and complete[-1] >= last_begun - 1 > last
        assert all(manifest.damage(tmp_path / str(step)) is None for step in complete)
        last = complete[-1]
    lines = []
    state, meta = Checkpoints(tmp_path, report=lines.append).restore(None)
    assert meta["step"] == state["step"] >= last and (state["w"] == state["step"]).all()
    assert not list(tmp_path.glob("*.tmp-*"))


# A full disk


@pytest.fixture
def small_files():
    """No file may grow above 64 KB, which the kernel refuses in the same place as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_is_one_line_at_the_next_save_and_leaves_the_old_ones_alone(tmp_path, small_files, caplog):
    checkpoints = saved(tmp_path, 1)
    small_files()
    big = {"w": np.random.RandomState(0).randn(100_000)}
    checkpoints.save(big, {}, step=2)
    with pytest.raises(CheckpointError, match=r"step 2 could not be written to .*: File too large; complete ones: 1") as error:
        checkpoints.save(small_state(3), {}, step=3)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    checkpoints.close()
    assert not caplog.records, "orbax logged tracebacks beside the one line"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert checkpoints.restore(None)[1] == {"position": 10}


def test_a_disk_that_fills_up_while_the_manifest_is_written_is_called_full(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(manifest, "write", full)
    checkpoints.save(small_state(2), {}, step=2)
    with pytest.raises(CheckpointError, match="the disk is full; complete ones: 1"):
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_leaving_the_context_waits_and_does_not_hide_an_error_under_way(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small_state(1), {}, step=1)
    assert Checkpoints(tmp_path).steps() == [1]
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small_state(2), {}, step=2)
        raise ZeroDivisionError
    assert Checkpoints(tmp_path).steps() == [1, 2]


# Changed configs


def test_changes_of_a_config_are_named_key_by_key():
    old = {"optim": {"lr": 0.1, "name": "adamw"}, "image_size": [32, 32], "stages": [], "data": {"path": "a"}}
    new = {"optim": {"lr": 0.2, "name": "adamw", "clip": 1.0}, "image_size": (32, 32), "stages": (), "data": {}}
    assert describe_changes(old, new) == [
        "data: (absent) -> {}",
        "data.path: 'a' -> (absent)",
        "optim.clip: (absent) -> 1.0",
        "optim.lr: 0.1 -> 0.2",
    ]
    assert describe_changes(old, old) == []
