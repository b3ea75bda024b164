"""A run on clips from its first step to a written text. One compiled run is shared; cross entropy and policy are both in it."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import fit
from jaxvision.data import open_source
from jaxvision.errors import ConfigError, DataError
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.tasks.text.vocabulary import vocabulary
from jaxvision.train.modes import predict
from jaxvision.train.writers import read_metrics
from tests.tasks.reading import tiny
from tests.train.test_loop import assert_same, losses, params_of

LETTERS = vocabulary("letters")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, fit(tiny(), workdir, report=lambda line: None)


def test_a_run_measures_errors_and_draws_what_it_read(finished):
    workdir, metrics = finished
    assert {"test/cer", "test/wer", "test/accuracy", "test/loss", "test/bleu"} <= metrics.keys()
    assert all(np.isfinite(line[f"train/{name}"]) for line in read_metrics(workdir)[:4] for name in ("policy", "reward", "cross_entropy", "loss"))
    assert (workdir / "pictures" / "00000004.png").stat().st_size > 1000


def test_a_resumed_run_is_bit_identical(finished, tmp_path):
    fit(tiny(steps=4, checkpoint__every=2), tmp_path, report=lambda line: None)
    import shutil

    shutil.rmtree(tmp_path / "checkpoints" / "4")
    lines = []
    fit(tiny(steps=4, checkpoint__every=2), tmp_path, report=lines.append)
    assert any("going on from step 2" in line for line in lines)
    assert_same(params_of(finished[0]), params_of(tmp_path))


def test_eight_devices_give_the_losses_of_one(finished, tmp_path):
    fit(tiny(mesh__data=8), tmp_path, report=lambda line: None)
    np.testing.assert_allclose(losses(tmp_path), losses(finished[0]), rtol=1e-4, atol=1e-5)


def test_a_clip_an_array_and_a_folder_of_frames_are_written_as_text(finished, tmp_path):
    from PIL import Image

    source = open_source(tiny().data, "test", seed=0)
    clip, length = source.columns["clip"][0], source.columns["length"][0]
    np.save(tmp_path / "a.npy", clip[:length])
    (tmp_path / "b").mkdir()
    for number, frame in enumerate(clip[:length]):
        Image.fromarray(frame[..., 0]).save(tmp_path / "b" / f"{number}.png")
    np.save(tmp_path / "long.npy", np.zeros((13, 8, 8), np.uint8))
    lines = []
    (path,) = predict(None, finished[0], tmp_path, output=tmp_path / "out", report=lines.append)
    with open(path, newline="") as file:
        first, second = csv.DictReader(file)
    assert path.name == "texts.csv" and first["file"].endswith("a.npy") and second["file"].endswith("/b")
    assert (first["text"], first["score"]) == (second["text"], second["score"]) and 0 < float(first["score"]) < 1
    assert any("13 frames, image_size takes 12" in line for line in lines)
    with pytest.raises(DataError, match=r"does not exist"):
        predict(None, finished[0], tmp_path / "absent")


def test_the_config_of_a_run_keeps_the_vocabulary_s_name(finished):
    assert json.loads((finished[0] / "config.json").read_text())["data"]["vocabulary"] == "letters"


def task(**changes):
    return make_task(tiny(**changes), Problem(LETTERS, 1, 64, 10, 8.0))


def test_cross_entropy_counts_up_to_the_end_or_the_whole_row():
    target = jnp.array([[5, 2, 0, 0]])
    log_probs = jnp.log(jnp.full((1, 4, 30), 0.5 / 29).at[0, [0, 1, 2, 3], [5, 2, 0, 0]].set(jnp.array([0.5, 0.25, 0.125, 0.0625])))
    assert task().cross_entropy(log_probs, target)[0] == pytest.approx(np.log(2) * (1 + 2) / 2)
    assert task(task__padding=True).cross_entropy(log_probs, target)[0] == pytest.approx(np.log(2) * (1 + 2 + 3 + 4) / 5)


def test_forcing_moves_from_its_first_value_to_its_last():
    made = task(task__forcing=(1.0, 0.0))
    shares = [float(made.taught(jax.random.key(0), 2000, jnp.int32(step)).mean()) for step in (0, 5, 10)]
    assert shares == pytest.approx([1.0, 0.5, 0.0], abs=0.05)


def test_frames_behind_the_end_are_black_after_normalizing():
    batch = {"clip": np.full((2, 4, 8, 8, 1), 9, np.uint8), "length": np.array([2, 4]), "valid": np.array([True, True])}
    clip = task().prepare(batch, jax.random.key(0), train=False)["clip"]
    assert not clip[0, 2:].any() and (clip[0, :2] != 0).all()


def test_data_without_texts_are_refused():
    with pytest.raises(ConfigError, match=r"learns from clips with texts, and data.source 'lips' has none"):
        make_task(tiny(), Problem(("cat", "dog"), 1, 64, 10, 8.0))
