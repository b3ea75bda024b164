"""Paper 89, small: of sixty labelled digits, mixed with one another, a student learns more from a teacher, most by ScaleKD with the teacher's tail.

The same pictures, batches and first weights for all arms of a seed. Seen, means of three seeds: 0.825 alone (0.806, 0.808, 0.861), 0.879 by logits
(0.875, 0.817, 0.944), 0.873 by ScaleKD without the teacher's tail (0.867, 0.817, 0.936), 0.887 by ScaleKD (0.889, 0.831, 0.942). The tail brings
the features of other pictures nearer to the teacher's only a little: 0.719 and 0.715 in the view without means, 0.827 and 0.820 as they are.
Not established: with a teacher that was trained anew (0.975 instead of 0.969) logits reached 0.882 and ScaleKD 0.882 too, 0.822
alone, 0.863 without the tail; with the tail's weights shuffled 0.858 where it has 0.897 (one seed).
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision
from jaxvision import data
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.train.config import load_config, with_changes
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.stages import stage_configs

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "scalekd.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.eval_every=100000"]
STEPS, BATCH, PICTURES, SEEDS = 400, 32, 60, (0, 1, 2)


def stage(number: int, method: str = "scalekd"):
    return stage_configs(load_config(f"{CONFIG}:demo,{method}", HERE))[number][1]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(columns of the digits by split, the teacher's variables, what its checkpoint notes)."""
    workdir = tmp_path_factory.mktemp("scalekd")
    metrics = jaxvision.fit(stage(0), workdir, report=lambda line: None)
    print({"teacher": round(metrics["test/accuracy"], 4)})
    variables, meta = read_checkpoint_variables(workdir, "last")
    columns = {split: data.open_source(stage(0).data, split, seed=0).columns for split in ("train", "test")}
    return columns, jax.tree.map(jnp.asarray, variables), meta


@pytest.fixture(scope="module")
def arms(taught):
    """arm(method, **changes of the task) -> figures of held-out digits, means over the seeds."""
    columns, teacher, meta = taught

    @functools.cache
    def arm(method, shuffled=False, seeds=SEEDS, **changes):
        config = with_changes(stage(1, method), {"steps": STEPS, **{f"task.{key}": value for key, value in changes.items()}})
        known = {"classes": tuple(meta["classes"]), "channels": 1, "train_size": len(columns["train"]["label"]), "steps_per_epoch": 45.0}
        noted = {"teacher": {key: meta[key] for key in ("config", "classes", "constants")}}
        task = make_task(config, Problem(total_steps=STEPS, frozen=noted, **known))
        shapes = {"image": jax.ShapeDtypeStruct((BATCH, 8, 8, 1), jnp.uint8)}
        given = {"frozen": {} if method == "alone" else {"teacher": with_shuffled_tail(teacher) if shuffled else teacher}}
        step, judge = jax.jit(task.train_step), jax.jit(lambda state, batch: task.eval_step(state, batch)[0])
        init = jax.jit(lambda key: task.init(key, shapes, given))
        found = [one(init(jax.random.key(seed)), step, judge, columns, seed) for seed in seeds]
        figures = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        print(method, changes, {name: round(value, 4) for name, value in figures.items()}, [round(each["accuracy"], 4) for each in found])
        return figures

    return arm


def with_shuffled_tail(teacher):
    """The teacher with the entries of every kernel of its last two blocks in another order."""
    shuffle = lambda leaf: jax.random.permutation(jax.random.key(leaf.size), leaf.reshape(-1)).reshape(leaf.shape) if leaf.ndim > 1 else leaf
    params = {name: jax.tree.map(shuffle, tree) if name in ("blocks_2", "blocks_3") else tree for name, tree in teacher["params"].items()}
    return {**teacher, "params": params}


def one(state, step, judge, columns, seed):
    random, train = np.random.RandomState(seed), columns["train"]
    chosen = random.permutation(len(train["label"]))[:PICTURES]
    order = np.concatenate([random.permutation(chosen) for _ in range(STEPS * BATCH // PICTURES + 1)])
    for rows in order[: STEPS * BATCH].reshape(STEPS, BATCH):
        batch = {"image": train["image"][rows], "label": train["label"][rows], "index": rows, "valid": np.ones(BATCH, bool)}
        state, _ = step(state, batch)
    count = len(columns["test"]["label"])
    batch = {**columns["test"], "index": np.arange(count), "valid": np.ones(count, bool)}
    return {name: float(total / number) for name, (total, number) in judge(state, jax.tree.map(jnp.asarray, batch)).items()}


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_a_student_learns_more_from_its_teacher_and_most_by_scalekd(arms):
    alone, kd, scalekd = (arms(method)["accuracy"] for method in ("alone", "kd", "scalekd"))
    assert scalekd > kd > alone and scalekd > alone + 0.01


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_without_the_teacher_s_tail_it_learns_less(arms):
    assert arms("scalekd")["accuracy"] > arms("scalekd", perception=False)["accuracy"]


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_a_teacher_whose_last_blocks_are_shuffled_is_no_good(arms):
    assert arms("scalekd", shuffled=True)["accuracy"] < arms("scalekd")["accuracy"] - 0.05
