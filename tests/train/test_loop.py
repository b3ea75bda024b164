import json
import os
import signal

import jax
import numpy as np
import pytest

from jaxvision import fit
from jaxvision.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.loop import Stopped
from jaxvision.train.modes import evaluate, predict
from jaxvision.train.writers import read_metrics
from jaxvision.trees import named_leaves
from tests.runs import tiny


def losses(workdir):
    return [line["train/loss"] for line in read_metrics(workdir) if "train/loss" in line]


def params_of(workdir, which="last"):
    return named_leaves(read_checkpoint_variables(workdir, which)[0])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 8 steps on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    metrics = fit(tiny(), workdir, report=lambda line: None)
    return workdir, metrics


def test_a_run_leaves_its_config_numbers_pictures_and_checkpoints(finished):
    workdir, metrics = finished
    assert {"config.json", "metrics.jsonl", "parameters.txt", "curves.png", "confusion.png", "checkpoints"} <= set(os.listdir(workdir))
    last = read_metrics(workdir)[-1]
    assert last["step"] == 8 and {"test/accuracy", "test/loss", "test/raw/accuracy", "seconds"} <= last.keys()
    assert last["test/accuracy"] == metrics["test/accuracy"]


def test_stopped_by_a_signal_and_resumed_is_bit_identical_to_uninterrupted(finished, tmp_path):
    fired = []

    def stop_once(line):
        fired.append(line)

    config = tiny(checkpoint__every=3)

    class Kill:
        """Raises SIGTERM in this process when step 5's metrics are written."""

        def __call__(self, step, metrics):
            if step == 5 and not fired:
                fired.append(step)
                os.kill(os.getpid(), signal.SIGTERM)

    from jaxvision.train import loop

    original, kill = loop.Progress.update, Kill()
    try:
        loop.Progress.update = lambda self, step, metrics: kill(step, metrics)
        with pytest.raises(Stopped, match="step 5"):
            fit(config, tmp_path, report=stop_once)
    finally:
        loop.Progress.update = original
    fit(config, tmp_path, report=stop_once)
    assert any("going on from step 5" in str(line) for line in fired)
    assert_same(params_of(finished[0]), params_of(tmp_path))
    assert losses(finished[0]) == losses(tmp_path)


def test_the_same_command_after_the_end_only_evaluates(finished):
    lines = []
    before = (finished[0] / "metrics.jsonl").read_text()
    metrics = fit(tiny(), finished[0], report=lines.append)
    assert metrics["test/accuracy"] == finished[1]["test/accuracy"] and "finished already" in lines[-1]
    assert (finished[0] / "metrics.jsonl").read_text() == before


def test_eight_devices_give_the_losses_of_one(finished, tmp_path):
    fit(tiny(mesh__data=4, mesh__fsdp=2), tmp_path, report=lambda line: None)
    np.testing.assert_allclose(losses(tmp_path), losses(finished[0]), rtol=1e-5)


def test_accumulated_micro_batches_give_the_gradient_of_the_whole(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for workdir, count in ((whole, 1), (parts, 4)):
        fit(tiny(steps=4, optim__accumulate=count, model__drop_path=0.0), workdir, report=lambda line: None)
    np.testing.assert_allclose(losses(whole), losses(parts), rtol=1e-5)


def test_resuming_says_what_differs(tmp_path):
    lines = []
    fit(tiny(steps=2), tmp_path, report=lines.append)
    fit(tiny(steps=4, optim__lr=2e-3), tmp_path, report=lines.append)
    (line,) = [line for line in lines if "differs" in line]
    assert "optim.lr: 0.001 -> 0.002" in line and "steps: 2 -> 4" in line


def test_a_loss_that_is_not_finite_stops_with_step_examples_and_last_good_checkpoint(tmp_path):
    config = tiny(optim__lr=1e30, optim__clip=None, steps=6, checkpoint__every=1, optim__name="sgd")
    with pytest.raises(NonFiniteError, match=r"step \d, examples \d+.*last good checkpoint is .*checkpoints/\d"):
        fit(config, tmp_path, report=lambda line: None)
    noted = json.loads((tmp_path / "nonfinite.json").read_text())
    assert len(noted["index"]) == 16
    assert all(np.isfinite(leaf).all() for leaf in params_of(tmp_path).values())


def test_a_loss_that_is_not_finite_may_be_skipped_and_is_counted(tmp_path):
    config = tiny(optim__lr=1e30, optim__clip=None, steps=6, optim__name="sgd", nonfinite="skip")
    fit(config, tmp_path, report=lambda line: None)
    skipped = [line["train/skipped_steps"] for line in read_metrics(tmp_path) if "train/skipped_steps" in line]
    assert skipped[-1] >= 1 and all(np.isfinite(leaf).all() for leaf in params_of(tmp_path).values())


def test_a_stage_starts_from_an_earlier_one_and_the_last_one_is_reported_above(tmp_path):
    config = tiny(stages=(("first", {"steps": 2}), ("second", {"steps": 3, "init_from": "stage:first", "optim.lr": 0.0, "optim.ema": None})))
    metrics = fit(config, tmp_path, report=lambda line: None)
    assert_same(params_of(tmp_path / "first"), params_of(tmp_path / "second"))  # a rate of 0 leaves what it started from
    last = read_metrics(tmp_path)[-1]
    assert last["stage"] == "second" and last["test/accuracy"] == metrics["test/accuracy"]
    assert evaluate(None, tmp_path, report=lambda line: None)["test/accuracy"] == metrics["test/accuracy"]
    with pytest.raises(ConfigError, match="first"):
        evaluate(None, tmp_path, stage="frist")


def test_evaluation_and_prediction_need_only_the_workdir(finished, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    lines = []
    assert evaluate(None, finished[0], checkpoint="best", report=lines.append)["test/accuracy"] == finished[1]["test/accuracy"]
    for i, image in enumerate(load_digits().images[:3]):
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    written = predict(None, finished[0], tmp_path, output=tmp_path / "out", report=lines.append)
    rows = written[0].read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("file,top1,p1") and rows[0].endswith("top5,p5")
    assert any("broken.png" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"batch_size": 12, "mesh__data": 8}, ConfigError, "8 or 16"),
        ({"image_size": (16, 16)}, DataError, "8x8"),
        ({"data__mean": (0.5, 0.5), "data__channels": 3}, ConfigError, "3 channels"),
        ({"data__channels": 4}, ConfigError, "1 or 3 channels"),
        ({"data__source": "folder", "data__path": "/nowhere"}, DataError, "/nowhere"),
        ({"data__source": "digit"}, ConfigError, "digits"),
        ({"task__name": "clasify"}, ConfigError, "classify"),
        ({"model__depht": 3}, Exception, "depth"),
        ({"optim__name": "adamv"}, ConfigError, "adamw"),
        ({"augment__padcrop": 3}, ConfigError, "pad_crop"),
        ({"init_from": "/nowhere"}, CheckpointError, "/nowhere"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_trained(tmp_path, changes, error, named):
    with pytest.raises(error, match=named) as caught:
        fit(tiny(**changes), tmp_path, report=lambda line: None)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not (tmp_path / "metrics.jsonl").exists() and not list(tmp_path.glob("checkpoints/*"))


def test_no_implicit_transfer_happens_inside_the_loop():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="transfer"):
        jax.numpy.ones(3) + 1  # what the guard of the loop would catch
