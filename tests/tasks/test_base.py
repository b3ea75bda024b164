import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision import fit
from jaxvision.errors import ConfigError
from jaxvision.tasks.base import accumulate
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.modes import predict
from jaxvision.train.setup import set_up
from jaxvision.train.writers import read_metrics
from jaxvision.trees import named_leaves
from tests.runs import tiny

QUIET = {"report": lambda line: None}


def test_players_move_their_own_subtrees_in_turn_and_see_each_other(tmp_path):
    config = tiny(steps=4, optim__lr=0.1, optim__ema=None, optim__schedule="constant", optim__name="sgd", optim__slow={"lr": 0.25}, optim__clip=None,
                  task__name="tests.tasks.methods:TwoPlayers", checkpoint__metric="test/gap")
    fit(config, tmp_path, **QUIET)
    lines = [line for line in read_metrics(tmp_path) if "train/critic/seen" in line]
    assert [line["train/critic/seen"] for line in lines] == [0, 1, 2, 3]
    # The generator moves at steps 0 and 2 only, after the critic of the same step.
    assert [line.get("train/generator/seen") for line in lines] == [1, None, 3, None]
    assert lines[0]["train/generator/lr"] == 0.25 and lines[0]["train/critic/lr"] == pytest.approx(0.1)
    state, _ = Checkpoints(tmp_path / "checkpoints", read_only=True).restore(None)
    assert state["params"]["critic"]["scale"] == 1.0  # no gradient reaches it
    assert sorted(state["opt_state"]) == ["critic", "generator"]


def test_subtrees_that_leave_a_parameter_out_are_refused():
    from tests.tasks.methods import TwoPlayers

    class Partial(TwoPlayers):
        def make_players(self):
            return super().make_players()[:1]

    setup = set_up(tiny(task__name="tests.tasks.methods:TwoPlayers", optim__slow={"lr": 0.1}))
    task = Partial(setup.config, setup.problem)
    with pytest.raises(ConfigError, match="generator/mean"):
        task.init(jax.random.key(0), setup.shapes, {})


def test_a_frozen_teacher_is_an_argument_that_stays_and_its_outputs_fill_a_queue(tmp_path):
    fit(tiny(steps=3), tmp_path / "teacher", **QUIET)
    teacher = {"source": str(tmp_path / "teacher")}
    config = tiny(steps=3, task__name="tests.tasks.methods:Distill", task__queue=40, frozen__teacher=teacher, mesh__data=8)
    fit(config, tmp_path / "student", **QUIET)
    state, meta = Checkpoints(tmp_path / "student" / "checkpoints", read_only=True).restore(None)
    assert not state.get("frozen") and meta["frozen"]["teacher"]["step"] == 3
    queue = np.asarray(state["extra"]["queue"])
    # 3 batches of 16 have gone through a queue of 40: all of it is the teacher's distributions.
    np.testing.assert_allclose(queue.sum(1), 1.0, rtol=1e-5)
    setup = set_up(config)
    variables, _ = read_checkpoint_variables(tmp_path / "teacher")
    for name, leaf in named_leaves(setup.given["frozen"]["teacher"]).items():
        np.testing.assert_array_equal(leaf, named_leaves(variables)[name])


def test_a_frozen_network_that_prediction_uses_travels_with_the_final_checkpoint(tmp_path):
    fit(tiny(steps=2), tmp_path / "teacher", **QUIET)
    teacher = {"source": str(tmp_path / "teacher")}
    fit(tiny(steps=2, task__name="tests.tasks.methods:Ensemble", task__queue=40, frozen__teacher=teacher), tmp_path / "run", **QUIET)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "digit.png")
    (before,) = predict(None, tmp_path / "run", tmp_path / "digit.png", output=tmp_path / "with", **QUIET)
    (of_teacher,) = predict(None, tmp_path / "teacher", tmp_path / "digit.png", output=tmp_path / "own", **QUIET)
    shutil.rmtree(tmp_path / "teacher")
    (after,) = predict(None, tmp_path / "run", tmp_path / "digit.png", output=tmp_path / "without", **QUIET)
    assert before.read_text() == after.read_text() == of_teacher.read_text()


def test_a_static_choice_changes_the_executable(tmp_path):
    fit(tiny(steps=4, task__name="tests.tasks.methods:Widening", augment__pad_crop=0), tmp_path, **QUIET)
    dark = [line["train/dark"] for line in read_metrics(tmp_path) if "train/dark" in line]
    assert dark[:2] == [0.0, 0.0] or dark[0] != dark[2]
    assert set(dark[:2]).isdisjoint(dark[2:])


def test_accumulation_averages_and_keeps_outputs_in_batch_order():
    def grad_fn(params, batch, key):
        value, grads = jax.value_and_grad(lambda w: (w * batch["x"]).mean())(params)
        return (value, {"metrics": {"mean": batch["x"].mean()}, "extra": {}, "outputs": {"x": batch["x"]}}), grads

    batch = {"x": jnp.arange(12.0)}
    (value, aux), grads = accumulate(grad_fn, 3)(jnp.float32(2.0), batch, jax.random.key(0))
    assert (value, grads, aux["metrics"]["mean"]) == (11.0, 5.5, 5.5)
    np.testing.assert_array_equal(aux["outputs"]["x"], batch["x"])


def test_averaged_weights_follow_and_both_are_reported(tmp_path):
    metrics = fit(tiny(steps=3), tmp_path, **QUIET)
    assert {"test/accuracy", "test/raw/accuracy"} <= metrics.keys() and metrics["test/loss"] != metrics["test/raw/loss"]


def test_padding_does_not_change_the_loss():
    setup = set_up(tiny())
    task = setup.task
    state = task.init(jax.random.key(0), setup.shapes, {})
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    batch = {"image": image, "label": np.arange(8, dtype=np.int32), "index": np.arange(8, dtype=np.int32), "valid": np.ones(8, bool)}
    half = {**batch, "valid": np.arange(8) < 4}
    full_sums, _ = task.eval_step(state, {name: value[:4] for name, value in batch.items()})
    half_sums, _ = task.eval_step(state, half)
    np.testing.assert_allclose(full_sums["loss"], half_sums["loss"], rtol=1e-5)
    key = jax.random.key(1)
    prepared = task.prepare(half, key, train=True)
    assert prepared["weight"].mean() == pytest.approx(1.0) and float(prepared["weight"][5]) == 0.0


@pytest.mark.parametrize("warmup, share", [("none", 0.001), ("tf", 0.9)])
def test_averaged_weights_forget_the_first_ones_when_the_decay_warms_up(warmup, share, tmp_path):
    fit(tiny(steps=1, optim__ema=0.999, optim__ema_warmup=warmup, optim__warmup=0), tmp_path, **QUIET)
    state, _ = Checkpoints(tmp_path / "checkpoints", read_only=True).restore(None)
    live, averaged = state["params"]["head"]["bias"], state["extra"]["ema"]["params"]["head"]["bias"]
    assert np.abs(live).min() > 0  # it began at zero
    np.testing.assert_allclose(averaged, share * live, rtol=1e-3)
