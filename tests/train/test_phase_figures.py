import json

import numpy as np
import pytest
from PIL import Image

from jaxvision.errors import DataError
from jaxvision.train.phase_figures import accuracy_against_time, curve, overview, phase_images, seen
from jaxvision.train.setup import set_up
from tests.runs import tiny

PHASES = ({"until": 2, "size": 4}, {"until": 4, "size": 4}, {"until": 6, "size": 4, "crop": "resize"}, {})


def test_each_size_of_a_curriculum_is_a_row_of_the_same_pictures(tmp_path):
    setup = set_up(tiny(phases=PHASES))
    rows = seen(setup, 3)
    assert [title for title, _ in rows] == ["4 x 4 spectrum\nsteps 0 - 4", "4 x 4 resize\nsteps 4 - 6", "8 x 8\nsteps 6 - 8"]
    assert [pictures.shape for _, pictures in rows] == [(3, 4, 4, 1), (3, 4, 4, 1), (3, 8, 8, 1)]
    full = rows[-1][1]
    np.testing.assert_allclose(full, setup.sources["test"].columns["image"][:3] / 255, atol=1e-6)
    assert np.abs(rows[0][1].mean((1, 2)) - full.mean((1, 2))).max() < 0.05  # the crop keeps the mean, up to clipping
    assert min(Image.open(phase_images(setup, tmp_path / "phases.png")).size) > 100


def test_arms_are_drawn_against_seconds_and_an_empty_one_is_named(tmp_path):
    for name, values in {"a": (0.5, 0.9), "b": (0.6,), "c": ()}.items():
        (tmp_path / name).mkdir()
        lines = [{"step": i, "seconds": 2.0 * i, "test/accuracy": value} for i, value in enumerate(values, 1)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arms = {"baseline": [tmp_path / "a"], "curriculum": [tmp_path / "a", tmp_path / "b"]}
    assert min(Image.open(accuracy_against_time(arms, tmp_path / "time.png")).size) > 200
    assert min(Image.open(overview(set_up(tiny(phases=PHASES)), arms, tmp_path / "both.png")).size) > 300
    with pytest.raises(DataError, match="nothing"):
        accuracy_against_time({"nothing": [tmp_path / "c"]}, tmp_path / "time.png")


def test_evaluations_take_none_of_a_curve_s_time_and_runs_are_averaged(tmp_path):
    kinds = (("train/loss", 0.0), ("test/accuracy", 0.4), ("train/loss", 0.0), ("test/accuracy", 0.8))
    for name, seconds in {"a": (10.0, 13.0, 20.0, 24.0), "b": (20.0, 21.0, 41.0, 42.0)}.items():
        (tmp_path / name).mkdir()
        lines = [{"step": 1 + i // 2, "seconds": each, key: value} for i, (each, (key, value)) in enumerate(zip(seconds, kinds))]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seconds, values = curve([tmp_path / "a", tmp_path / "b"], "test/accuracy")
    np.testing.assert_allclose(seconds, [(10 + 20) / 2, (17 + 40) / 2])
    np.testing.assert_allclose(values, [0.4, 0.8])
