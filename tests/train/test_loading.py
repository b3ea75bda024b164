import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxvision
from jaxvision.data.digits import open_digits
from jaxvision.errors import CheckpointError, ConfigError
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.config import config_json
from jaxvision.train.modes import predict
from jaxvision.trees import named_leaves
from tests.runs import tiny


def quiet(line):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, metrics) of a finished run of 8 steps, given in epochs, and a warm-up given in steps."""
    workdir = tmp_path_factory.mktemp("loading")
    return workdir, jaxvision.fit(tiny(epochs=0.089, optim__warmup=4), workdir, report=quiet)


def logits(run, image):
    return jax.jit(lambda variables, image: run.model.apply(variables, run.normalize(image)))(run.variables, image)


def test_a_loaded_run_has_the_accuracy_that_training_reported(finished):
    workdir, metrics = finished
    run, test = jaxvision.load_run(workdir), open_digits("test").columns
    accuracy = float((logits(run, test["image"]).argmax(-1) == test["label"]).mean())
    assert accuracy == pytest.approx(metrics["test/accuracy"], abs=1e-6)
    assert run.step == 8 and run.classes == tuple("0123456789") and run.constants["mean"] == (0.5,)


def test_a_loaded_run_has_the_averaged_parameters(finished):
    run = jaxvision.load_run(finished[0])
    state, _ = Checkpoints(finished[0] / "checkpoints", read_only=True).restore(None)
    for name, leaf in named_leaves(run.variables["params"]).items():
        np.testing.assert_array_equal(leaf, named_leaves(state["extra"]["ema"]["params"])[name])
        assert not np.array_equal(leaf, named_leaves(state["params"])[name])


def test_a_run_is_loaded_without_its_data_and_predicts_what_the_model_says(finished, tmp_path, monkeypatch):
    from jaxvision import data

    def absent(*_, **__):
        raise AssertionError("the data were opened")

    monkeypatch.setattr(data, "open_source", absent)
    run, image = jaxvision.load_run(finished[0]), open_digits("test").columns["image"][:1]
    Image.fromarray(image[0, ..., 0]).save(tmp_path / "digit.png")
    (table,) = predict(None, finished[0], tmp_path / "digit.png", output=tmp_path, report=quiet)
    row = table.read_text().splitlines()[1].split(",")
    probabilities = jax.nn.softmax(logits(run, image))[0]
    assert row[1] == run.classes[int(probabilities.argmax())]
    assert float(row[2]) == pytest.approx(float(probabilities.max()), abs=2e-6)


def test_taps_of_a_loaded_model_give_its_attention(finished):
    run, image = jaxvision.load_run(finished[0]), open_digits("test").columns["image"][:3]
    _, kept = run.model.apply(run.variables, run.normalize(image), mutable=["taps"])
    (weights,) = kept["taps"]["blocks_0"]["attn"]["weights"]
    assert weights.shape == (3, 2, 5, 5)  # two heads; a class token and 2 x 2 patches
    np.testing.assert_allclose(jnp.sum(weights, -1), 1, atol=1e-6)


def test_a_stage_is_loaded_by_name_and_the_last_one_without(finished, tmp_path):
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "first" / "checkpoints")
    (tmp_path / "config.json").write_text(config_json(tiny(stages=(("first", {}), ("second", {})))))
    assert jaxvision.load_run(tmp_path, stage="first").step == 8
    with pytest.raises(CheckpointError, match="second holds no checkpoints"):
        jaxvision.load_run(tmp_path)
    with pytest.raises(ConfigError, match="first"):
        jaxvision.load_run(tmp_path, stage="frist")


def test_a_folder_without_a_run_or_the_checkpoint_is_one_line(finished, tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        jaxvision.load_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint 5 .* others there: 8"):
        jaxvision.load_run(finished[0], checkpoint=5)
