"""Phases of videos: the loss by hand, its padding, and a run from files to F1."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import fit
from jaxvision.data.sequences import open_sequences
from jaxvision.errors import DataError
from jaxvision.tasks.phases import phase_loss
from tests.runs import tiny

RANDOM = np.random.RandomState(0)


def write(folder, split, lengths):
    """Videos of three phases in order, whose features say the phase through noise."""
    (folder / split).mkdir(parents=True)
    for number, length in enumerate(lengths):
        label = np.minimum(np.arange(length) * 3 // length, 2)
        features = np.eye(3)[label] + 0.5 * RANDOM.normal(size=(length, 3))
        np.savez(folder / split / f"{number}.npz", features=features, label=label)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write(folder, "train", (24, 30, 27, 21))
    write(folder, "test", (20, 30))
    return folder


def test_the_loss_is_cross_entropy_and_cut_steps_of_the_frames_that_are_there():
    logits = jnp.asarray(RANDOM.normal(size=(2, 1, 5, 3)) * [[[[1]]], [[[20]]]])
    label, shown = np.asarray([[0, -1, 2, 1, 1]]), np.asarray([[True, True, True, True, False]])
    expected = 0
    for stage in np.asarray(logits)[:, 0]:
        logs = stage - np.log(np.exp(stage).sum(-1, keepdims=True))
        expected += -(logs[0, 0] + logs[2, 2] + logs[3, 1]) / 3
        expected += 0.15 * np.minimum((logs[1:4] - logs[:3]) ** 2, 16).mean()
    np.testing.assert_allclose(phase_loss(logits, label, shown), [expected], rtol=1e-5)
    changed = logits.at[:, :, 4].add(5.0)
    np.testing.assert_allclose(phase_loss(changed, label, shown), [expected], rtol=1e-5)


def test_videos_are_padded_to_the_longest_and_widths_have_to_agree(videos, tmp_path):
    source = open_sequences(str(videos), "test")
    assert source.columns["features"].shape == (2, 30, 3) and source.classes == ("0", "1", "2")
    assert source.columns["shown"].sum(1).tolist() == [20, 30] and (source.columns["label"][0, 20:] == -1).all()
    write(tmp_path, "train", (9,))
    with pytest.raises(DataError, match="should hold train/ and test/"):
        open_sequences(str(tmp_path), "train")
    (tmp_path / "test").mkdir()
    np.savez(tmp_path / "test" / "0.npz", features=np.zeros((4, 7)), label=np.zeros(4, int))
    with pytest.raises(DataError, match="different widths: 3, 7"):
        open_sequences(str(tmp_path), "train")


def test_a_run_from_files_learns_the_phases(videos, tmp_path):
    task = {"name": "phases", "layers": 2, "maps": 8, "dropout": 0.1}
    data = {"source": "sequences", "path": str(videos)}
    changes = {"steps": 60, "batch_size": 2, "eval_batch_size": 2, "optim": {"name": "adam", "lr": 2e-2, "schedule": "constant"}, "log_every": 20}
    metrics = fit(tiny(task=task, data=data, augment={}, **changes), tmp_path, report=lambda line: None)
    assert metrics["test/accuracy"] > 0.8 and metrics["test/f1"] > 0.75
