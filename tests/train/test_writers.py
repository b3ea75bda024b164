"""What a run leaves behind in numbers survives a kill at any byte, and says the same as the run that was never killed."""

import json
import math
import sys
import types

import numpy as np
import pytest

from jaxvision.errors import ConfigError, DataError
from jaxvision.train.writers import cut_back, make_writers, read_metrics

CONFIG = {"seed": 0, "optim": {"lr": 1e-3}}


def run(workdir, steps, resume_step=None, names=("jsonl",)):
    with make_writers(workdir, names, config=CONFIG, resume_step=resume_step) as writers:
        for step in steps:
            writers.write(step, {"train/loss": np.float32(1 / step), "seconds": step})


def test_each_write_is_one_flat_json_line_readable_while_the_run_goes_on(tmp_path):
    writers = make_writers(tmp_path, ("jsonl",), config=CONFIG)
    writers.write(10, {"train/loss": np.float32(0.5), "stage": "student"})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert {key: entry[key] for key in ("step", "train/loss", "stage")} == {"step": 10, "train/loss": 0.5, "stage": "student"}
    assert 0 <= entry["seconds"] < 60
    writers.close()


def test_resume_after_a_kill_leaves_the_lines_of_an_unbroken_run(tmp_path):
    run(tmp_path / "unbroken", range(1, 9))
    run(tmp_path / "killed", range(1, 7))
    path = tmp_path / "killed" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 7, "train/lo')
    run(tmp_path / "killed", range(5, 9), resume_step=4)
    assert path.read_bytes() == (tmp_path / "unbroken" / "metrics.jsonl").read_bytes()


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path):
    run(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert [entry["step"] for entry in read_metrics(tmp_path)] == [1]
        cut_back(path, 100)
        assert path.read_bytes() == whole[:first]
    assert list(tmp_path.glob(".*tmp")) == []


def test_a_line_broken_elsewhere_is_an_error_that_names_it(tmp_path):
    run(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": \n' + path.read_bytes())
    with pytest.raises(DataError, match="line 1 "):
        read_metrics(tmp_path)


def test_a_run_from_its_beginning_keeps_nothing_of_an_earlier_one(tmp_path):
    run(tmp_path, [1, 2, 3])
    run(tmp_path, [1])
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1]


def test_a_failed_replacement_leaves_the_old_metrics(tmp_path, monkeypatch):
    run(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        cut_back(tmp_path / "metrics.jsonl", 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_numbers_that_are_not_finite_are_strict_json_and_read_back(tmp_path):
    with make_writers(tmp_path, ("jsonl",), config=CONFIG) as writers:
        writers.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(name):
        raise AssertionError(name)

    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    (entry,) = read_metrics(tmp_path)
    assert math.isnan(entry["a"]) and entry["b"] == math.inf and entry["c"] == -math.inf


def test_seconds_go_on_from_the_restored_line(tmp_path):
    with make_writers(tmp_path, ("jsonl",), config=CONFIG) as writers:
        writers.write(1, {"seconds": 500.0})
    with make_writers(tmp_path, ("jsonl",), config=CONFIG, resume_step=1) as writers:
        writers.write(2, {"train/loss": 1.0})
    assert 500 <= read_metrics(tmp_path)[-1]["seconds"] < 560


def events(folder):
    """[(step, tag, value or None)] and the steps of session marks, file by file in the order of their making."""
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  loads the protocol buffers
    from tensorboardX.proto import event_pb2

    scalars, marks = [], []
    for path in sorted(folder.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.HasField("session_log"):
                marks.append(event.step)
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value if v.HasField("simple_value")]
    return scalars, marks


def test_tensorboard_events_hold_the_metrics_and_a_resume_purges_later_ones(tmp_path):
    run(tmp_path, [1, 2, 3], names=("tensorboard",))
    scalars, marks = events(tmp_path / "tensorboard")
    assert [entry for entry in scalars if entry[1] == "train/loss"] == [(s, "train/loss", np.float32(1 / s)) for s in (1, 2, 3)]
    assert marks == []
    run(tmp_path, [3, 4], resume_step=2, names=("tensorboard",))
    assert events(tmp_path / "tensorboard")[1] == [3]


def test_pictures_are_kept_as_files_and_a_wrong_array_is_named(tmp_path):
    from PIL import Image

    picture = np.random.RandomState(0).randint(0, 255, (5, 7, 3), np.uint8)
    with make_writers(tmp_path, ("jsonl", "tensorboard"), config=CONFIG) as writers:
        writers.figure(20, "samples", picture)
        with pytest.raises(DataError, match="float64"):
            writers.figure(20, "samples", picture / 255)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "figures" / "samples_00000020.png")), picture)


def test_an_unknown_writer_and_a_missing_package_are_config_errors(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        make_writers(tmp_path, ("tensorbord",), config=CONFIG)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"jaxvision\[wandb\]"):
        make_writers(tmp_path, ("wandb",), config=CONFIG)


def test_wandb_goes_on_in_the_same_run_after_a_resume(tmp_path, monkeypatch):
    begun, logged = [], []
    handle = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    module = types.SimpleNamespace(init=lambda **settings: begun.append(settings) or handle, Image=lambda array: array.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run(tmp_path, [1], names=("wandb",))
    run(tmp_path, [2], resume_step=1, names=("wandb",))
    run(tmp_path, [1], names=("wandb",))
    ids = [settings["id"] for settings in begun]
    assert ids[0] == ids[1] != ids[2] and begun[0]["config"] == CONFIG
    assert [step for step, _ in logged] == [1, 2, 1]
