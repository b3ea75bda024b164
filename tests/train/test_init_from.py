"""Fine-tuning starts from exactly the leaves that fit, and names those that do not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import CheckpointError
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.models.rules import HEAD
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.init_from import load_into, match_classes, read_checkpoint_variables, select_branch
from jaxvision.trees import named_leaves


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


def test_columns_of_classes_of_the_same_name_are_kept_and_new_classes_start_at_zero():
    source, wanted = variables(classes=3), shapes(variables(classes=4))
    loaded = match_classes(wanted, source, ["cat", "dog", "owl"], ["ant", "owl", "cat", "bee"])
    (kernel,) = jax.tree.leaves(loaded)
    old = source["params"]["head"]["fc"]["kernel"]
    np.testing.assert_array_equal(kernel, np.stack([0 * old[:, 0], old[:, 2], old[:, 0], 0 * old[:, 0]], 1))


def test_classes_without_a_common_name_and_heads_of_other_widths_are_refused():
    with pytest.raises(CheckpointError, match=r"no class of the checkpoint \(cat, dog\) is a class of the data \(ant\)"):
        match_classes(shapes(variables(classes=1)), variables(classes=2), ["cat", "dog"], ["ant"])
    with pytest.raises(CheckpointError, match=r"head/fc/kernel is \(16, 2\) in the checkpoint, \(8, 1\) is wanted"):
        match_classes(shapes(variables(classes=1)), variables(classes=2, width=16), ["cat", "dog"], ["cat"])


def test_a_branch_of_a_method_s_parameters_is_taken_by_name():
    source = variables()
    wrapped = {"params": {"backbone": source["params"], "predictor": {"bias": np.zeros(2)}}, "batch_stats": {"backbone": source["batch_stats"]}}
    jax.tree.map(np.testing.assert_array_equal, select_branch(wrapped, "backbone"), source)
    with pytest.raises(CheckpointError, match=r"no such branch; did you mean 'backbone'"):
        select_branch(wrapped, "backbon")


@pytest.mark.parametrize("name", ["resnet18", "inception_resnet_v2", "densenet121", "regnety_002", "convnext_atto", "caformer_s18"])
def test_the_patterns_of_a_head_find_every_leaf_that_depends_on_the_classes(name):
    leaves = named_leaves(shapes_of(create_model(name, num_classes=1009, image_size=96)))
    of_classes = {path for path, leaf in leaves.items() if 1009 in leaf.shape}
    assert of_classes and all(re.fullmatch(HEAD, path.split("/", 1)[1]) for path in of_classes)
