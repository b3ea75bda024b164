"""Fine-tuning starts from exactly the leaves that fit, and names those that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import CheckpointError
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.init_from import load_into, read_checkpoint_variables


def variables(classes=10, width=8, dtype=np.float32, seed=0):
    r = np.random.RandomState(seed)
    params = {
        "stem": {"kernel": r.randn(3, 3, 3, width).astype(dtype)},
        "head": {"norm": {"scale": r.randn(width).astype(dtype)}, "fc": {"kernel": r.randn(width, classes).astype(dtype)}},
    }
    return {"params": params, "batch_stats": {"bn": {"mean": r.randn(width).astype(np.float32)}}}


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def test_leaves_that_fit_are_taken_as_they_are():
    source = variables()
    loaded = load_into(shapes(variables(seed=1)), source, reinit_head=False)
    jax.tree.map(np.testing.assert_array_equal, loaded, source)


def test_leaves_take_the_dtype_that_the_model_wants():
    loaded = load_into(shapes(variables(dtype=jnp.bfloat16)), variables(), reinit_head=False)
    assert loaded["params"]["stem"]["kernel"].dtype == jnp.bfloat16 and loaded["batch_stats"]["bn"]["mean"].dtype == np.float32


def test_every_leaf_that_does_not_fit_is_named_in_one_line():
    source = variables(width=16)
    source["params"]["neck"] = {"bias": np.zeros(2)}
    wanted = variables()
    wanted["params"]["tail"] = {"bias": np.zeros(5, np.float32)}
    with pytest.raises(CheckpointError) as error:
        load_into(shapes(wanted), source, reinit_head=False)
    line = str(error.value)
    assert "params/stem/kernel is (3, 3, 3, 16), wanted (3, 3, 3, 8)" in line and "batch_stats/bn/mean is (16), wanted (8)" in line
    assert "1 missing: params/tail/bias (5)" in line and "1 left over: params/neck/bias (2)" in line
    assert "reinit_head" not in line and "\n" not in line


def test_a_head_of_other_classes_is_an_error_that_says_how_to_go_on():
    with pytest.raises(CheckpointError, match=r"1 differing: params/head/fc/kernel is \(8, 10\), wanted \(8, 4\); .*reinit_head=True"):
        load_into(shapes(variables(classes=4)), variables(classes=10), reinit_head=False)


def test_the_head_is_left_to_its_initial_values_when_asked_but_its_norm_is_loaded():
    loaded = load_into(shapes(variables(classes=4)), variables(classes=10), reinit_head=True)
    assert set(loaded["params"]["head"]) == {"norm"} and "stem" in loaded["params"]
    same_size = load_into(shapes(variables(classes=10)), variables(classes=10), reinit_head=True)
    assert set(same_size["params"]["head"]) == {"norm"}


def test_a_head_that_is_not_there_cannot_be_begun_anew():
    source = {"params": {"stem": {"kernel": np.zeros(2, np.float32)}}}
    with pytest.raises(CheckpointError, match="no leaf of the model matches"):
        load_into(source, source, reinit_head=True)
    assert load_into(source, source, reinit_head=True, head_patterns=("stem/",)) == {}


def write_run(workdir, extra):
    live = variables(seed=1)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step, accuracy in ((1, 0.9), (2, 0.3)):
            params = jax.tree.map(lambda leaf: leaf + step, live["params"])
            state = {"params": params, "extra": {"batch_stats": live["batch_stats"], **extra}, "opt_state": {"main": np.zeros(3)}}
            checkpoints.save(state, {"step": step}, step=step, metrics={"test/accuracy": accuracy})
    return live


def test_a_run_gives_its_best_variables_by_workdir_folder_or_number(tmp_path):
    live = write_run(tmp_path, {})
    kernel = live["params"]["stem"]["kernel"]
    folder = tmp_path / "checkpoints"
    for path, which, step in ((tmp_path, "best", 1), (folder, "last", 2), (folder / "2", "best", 2), (tmp_path, 1, 1)):
        loaded, meta = read_checkpoint_variables(path, which)
        assert set(loaded) == {"params", "batch_stats"} and meta["step"] == step and len(meta["checksum"]) == 8
        np.testing.assert_array_equal(loaded["params"]["stem"]["kernel"], kernel + step)


def test_averaged_variables_are_preferred(tmp_path):
    average = variables(seed=7)
    write_run(tmp_path, {"ema": average})
    loaded, _ = read_checkpoint_variables(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded, average)


def test_a_place_without_checkpoints_is_refused_in_words(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="holds no checkpoints: it should be a workdir"):
            read_checkpoint_variables(path)
