"""What the methods carry from step to step: slow networks, queues, the centre, prototypes; one small network, compiled once a method."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.tasks import list_tasks, make_task
from jaxvision.tasks.base import Problem
from jaxvision.trees import named_leaves
from tests.runs import tiny

NET = {"model": {"name": "resnet20_cifar", "depths": (1,), "widths": (4,)}}
BATCH, STEPS = 4, 4
TASKS = {
    "simclr": {},
    "moco": {"queue": 8, "momentum": 0.9},
    "swav": {"prototypes": 6, "freeze": 2, "queue": 8, "queue_start": 1},
    "nnclr": {"queue": 8, "decoupled": True, "predictor": ((8, "bn_relu"), (6, ""))},
    "dino": {"prototypes": 6, "freeze": 2, "warmup": 2, "teacher_temperature": (0.04, 0.08), "momentum": 0.9},
}
OPTIM = {"simclr": {"optim__name": "sgd", "optim__lr": 1.0, "optim__schedule": "constant", "optim__clip_each": 0.05}}
PROBLEM = Problem(("a", "b"), 1, 64, STEPS, 16.0)


def task_of(name, **changes):
    task = {"name": f"ssl/{name}", "head": ((8, "bn_relu"), (6, "")), **TASKS.get(name, {}), **changes.pop("task", {})}
    settings = {"augment": {"scale": (0.5, 1.0)}, "optim__ema": None, "optim__lr": 0.1, "optim__weight_decay": 0.0, "optim__clip": None}
    return make_task(tiny(**{**NET, **settings, **changes}, task=task, batch_size=BATCH), PROBLEM)


def batch(step):
    image = np.random.RandomState(step).randint(0, 256, (BATCH, 8, 8, 1)).astype(np.uint8)
    return {"image": image, "label": np.zeros(BATCH, np.int32), "index": np.arange(BATCH), "valid": np.ones(BATCH, bool)}


SHAPES = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch(0))


def states(task, steps=STEPS):
    """[state, …] before the first step and after each, and the metrics of each."""
    state = jax.jit(lambda: task.init(jax.random.key(0), SHAPES, {}))()
    step, found, metrics = jax.jit(task.train_step), [state], []
    for number in range(steps):
        state, new = step(state, batch(number))
        found.append(state)
        metrics.append({name: float(value) for name, value in new.items()})
    return found, metrics


@pytest.fixture(scope="module")
def runs():
    made = {}

    def get(name):
        if name not in made:
            made[name] = states(task_of(name, **OPTIM.get(name, {})))
        return made[name]

    return get


@pytest.mark.parametrize("name", TASKS)
def test_every_method_takes_finite_steps_that_move_backbone_and_head(runs, name):
    found, metrics = runs(name)
    assert all(line["finite"] == 1 and np.isfinite(line["loss"]) for line in metrics)
    before, after = named_leaves(found[0].params), named_leaves(found[-1].params)
    assert {leaf.split("/")[0] for leaf in before} >= {"backbone", "projector"}
    for leaf in ("backbone/layer1_0/conv2/kernel", "projector/fc1/kernel"):
        assert np.abs(before[leaf] - after[leaf]).max() > 1e-4


def test_clipping_each_leaf_bounds_every_update_alone(runs):
    found, metrics = runs("simclr")
    for old, new, line in zip(found, found[1:], metrics):
        moved = jax.tree.map(lambda a, b: float(jnp.linalg.norm((a - b).ravel())), old.params, new.params)
        largest = max(jax.tree.leaves(moved))
        assert line["grad_norm"] > 0.05 and 0.0499 < largest < 0.0501


def test_moco_s_keys_follow_slowly_and_fill_the_queue_in_turn(runs):
    found, _ = runs("moco")
    for old, new in itertools.pairwise(found):
        expected = jax.tree.map(lambda k, q: 0.9 * k + 0.1 * q, old.extra["key"]["params"], new.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.extra["key"]["params"], expected)
    assert [int(state.extra["at"]) for state in found] == [0, 4, 0, 4, 0]
    # After K / B + 1 = 3 steps the first rows are the third step's, the others the second's.
    queues = [np.asarray(state.extra["queue"]) for state in found]
    np.testing.assert_array_equal(queues[3][4:], queues[2][4:])
    assert np.abs(queues[3][:4] - queues[2][:4]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(queues[3], axis=1), 1, rtol=1e-5)
    start = found[0].extra["key"]["params"]
    jax.tree.map(np.testing.assert_array_equal, start, found[0].params)


def test_nnclr_s_support_set_takes_first_views_in_turn_and_no_gradient_comes_through_it(runs):
    found, metrics = runs("nnclr")
    task, state = task_of("nnclr"), found[2]
    prepare_key, loss_key = jax.random.split(jax.random.fold_in(state.key, 2))
    made = task.prepare(batch(2), prepare_key, train=True)
    key = jax.random.fold_in(loss_key, 0)
    z, predicted, _ = task.project(state.params, state.extra["batch_stats"], made["views"], key)
    queues = [np.asarray(each.extra["queue"]) for each in found]
    np.testing.assert_array_equal(queues[3][4:], queues[2][4:])
    np.testing.assert_allclose(queues[3][:4], z[:, 0], atol=1e-5)
    assert [int(each.extra["at"]) for each in found] == [0, 4, 0, 4, 0] and np.abs(queues[3][:4] - queues[2][:4]).max() > 1e-3
    # The loss by its definition: the neighbour of one view, predictions from the other, and no positive in the denominator.
    neighbour = queues[2][np.argmax(np.asarray(z) @ queues[2].T, axis=-1)]
    p = np.asarray(predicted) / np.linalg.norm(predicted, axis=-1, keepdims=True)
    score = np.stack([neighbour[:, view] @ p[:, 1 - view].T / 0.1 for view in range(2)])
    off = np.where(np.eye(BATCH, dtype=bool), -np.inf, score)
    assert metrics[2]["loss"] == pytest.approx((np.log(np.exp(off).sum(-1)) - score[:, range(BATCH), range(BATCH)]).mean(), rel=1e-4)
    assert metrics[2]["nearness"] == pytest.approx((neighbour * np.asarray(z)).sum(-1).mean(), rel=1e-4)
    assert np.abs(named_leaves(found[1].params)["predictor/fc1/kernel"] - named_leaves(found[0].params)["predictor/fc1/kernel"]).max() > 1e-4


def test_swav_s_prototypes_stand_still_then_move_on_the_sphere_and_its_queue_begins_when_told(runs):
    found, metrics = runs("swav")
    kernels = [np.asarray(state.params["prototypes"]["kernel"]) for state in found]
    np.testing.assert_allclose(np.linalg.norm(kernels[-1], axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(kernels[0], kernels[2], atol=1e-6)
    assert np.abs(kernels[3] - kernels[2]).max() > 1e-3
    queues = [np.asarray(state.extra["queue"]) for state in found]
    assert not queues[1].any() and queues[2][:, :4].any() and not queues[2][:, 4:].any()
    np.testing.assert_array_equal(queues[3][:, 4:], queues[2][:, :4])
    assert metrics[0]["entropy"] > 0.9


def test_dino_s_teacher_centre_and_temperatures_follow_their_schedules(runs):
    found, _ = runs("dino")
    task = task_of("dino")
    assert [round(float(task.temperature_at(step)), 6) for step in (0, 1, 2, 3)] == [0.04, 0.06, 0.08, 0.08]
    np.testing.assert_allclose([task.momentum_at(step) for step in (0, 2, 4)], [0.9, 0.95, 1.0], atol=1e-6)
    for step, (old, new) in enumerate(itertools.pairwise(found)):
        keep = float(task.momentum_at(step))
        expected = jax.tree.map(lambda t, s: keep * t + (1 - keep) * s, old.extra["ema"]["params"], new.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.extra["ema"]["params"], expected)
    kernels = [np.asarray(state.params["prototypes"]["kernel"]) for state in found]
    np.testing.assert_array_equal(kernels[0], kernels[2])
    assert np.abs(kernels[3] - kernels[2]).max() > 1e-3
    centres = [np.asarray(state.extra["center"]) for state in found]
    assert not centres[0].any() and all(np.abs(a - b).max() > 1e-4 for a, b in itertools.pairwise(centres))


def test_dino_s_first_centre_is_a_tenth_of_the_teacher_s_mean_and_its_statistics_are_its_own(runs):
    found, _ = runs("dino")
    task = task_of("dino")
    state, key = found[0], jax.random.fold_in(found[0].key, 0)
    views = task.prepare(batch(0), jax.random.split(key)[0], train=True)["views"]
    stats = state.extra["batch_stats"]
    _, scores, own = task.project(state.params, stats, views, key)
    np.testing.assert_allclose(found[1].extra["center"], 0.1 * scores.mean((0, 1)), atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[1].extra["ema"]["batch_stats"], own)


def test_shuffling_takes_the_pairing_out_of_grouped_statistics_and_comes_back_in_order():
    task = task_of("moco", model={**NET["model"], "norm_groups": 2})
    assert task.shuffled and not task_of("moco").shuffled
    state = task.init(jax.random.key(0), SHAPES, {})
    view = jnp.asarray(np.random.RandomState(0).normal(size=(BATCH, 8, 8, 1)), jnp.float32)
    # Without batch statistics in play (groups as large as the batch), shuffled keys are the plain ones, each at its row.
    whole = task_of("moco")
    whole.shuffled = True
    keys, _ = whole.keys(state.extra["key"], view, jax.random.key(5))
    plain, _, _ = whole.project(state.extra["key"]["params"], state.extra["key"]["batch_stats"], (view,), jax.random.key(5))
    np.testing.assert_allclose(keys, plain[:, 0], atol=1e-5)
    grouped, _ = task.keys(state.extra["key"], view, jax.random.key(5))
    assert np.abs(grouped - keys).max() > 1e-3


def test_the_monitor_votes_by_features_of_length_one_and_sees_collapse():
    task = task_of("simclr")
    label = np.arange(40) % 2
    apart = np.random.RandomState(0).normal(size=(40, 8))
    apart[:, 0] = 3 * label
    rows = {split: {"features": apart / np.linalg.norm(apart, axis=1, keepdims=True), "label": label} for split in ("train", "test")}
    seen = task.summarize(rows, ("a", "b"))
    assert seen["knn"] == 1.0 and seen["spread"] > 0.3
    same = {split: {**row, "features": np.tile(apart[:1], (40, 1))} for split, row in rows.items()}
    assert task.summarize(same, ("a", "b"))["spread"] < 1e-6
    assert task_of("simclr", task={"monitor": False}).splits == ()


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("moco", {"task": {"queue": 10}}, "queue=10 is not a multiple of batch_size=4"),
        ("simclr", {"task": {"views": ({"count": 3},)}}, "compares 2 views of a picture, got 3"),
        ("simclr", {"task": {"tau": 1}}, "task.tau is not a key of the task 'ssl/simclr'"),
        ("dcl", {"task": {"loss": "dlc"}}, "task.loss 'dlc' is unknown; did you mean 'dcl'"),
        ("dino", {"optim__ema": 0.9}, "leave optim.ema out"),
        ("nnclr", {"task": {"predictor": ((8, "relu"), (5, ""))}}, "task.predictor ends at width 5, what it is compared with at 6"),
        ("swav", {"task": {"head": "swaw"}}, "did you mean 'swav'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        task_of(name, **changes)


def test_tasks_are_listed_and_what_they_share_is_not():
    names = [name for name in list_tasks() if name.startswith("ssl/")]
    assert {"ssl/simclr", "ssl/dcl", "ssl/moco", "ssl/nnclr", "ssl/swav", "ssl/dino"} <= set(names)
    assert not {"ssl/pretrain", "ssl/contrastive"} & set(names)
