import json
import re

import jax
import numpy as np
import pytest

import jaxvision.train.analysis as analysis_module
from jaxvision import create_model, fit
from jaxvision.augment.corruptions import corrupt
from jaxvision.data import open_source
from jaxvision.errors import ConfigError
from jaxvision.train.analysis import analyse, robustness
from jaxvision.train.loading import load_run
from jaxvision.trees import named_leaves
from tests.runs import run, tiny

FEW = dict(images=20, iterations=4, sigmas=(0.0,), samples=2, points=3, corruptions=("contrast", "impulse_noise"), severities=(1, 5))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of 8 steps of a ViT of one block."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    fit(tiny(), workdir, report=lambda line: None)
    return workdir


@pytest.fixture(scope="module")
def analysis(workdir):
    return analyse(workdir, report=lambda line: None, **FEW)


def test_everything_measured_is_written_and_drawn(workdir, analysis):
    assert json.loads((workdir / "analysis.json").read_text()) == analysis
    assert (workdir / "analysis.png").read_bytes()[:4] == b"\x89PNG"
    assert list(analysis["active_share"]) == ["blocks_0/mlp"] and 0.05 < analysis["active_share"]["blocks_0/mlp"] < 0.95
    assert set(analysis["eigenvalue"]) == {"all", "first_block"}


def test_the_numbers_of_one_run_agree_with_one_another(analysis):
    assert analysis["flatness"]["0.0"] == pytest.approx(analysis["loss"], rel=1e-5)
    assert analysis["landscape"]["losses"][1][1] == pytest.approx(analysis["loss"], rel=1e-5)
    # The largest eigenvalue of a diagonal block is at most the whole's, up to what few iterations leave open.
    assert 0 < analysis["eigenvalue"]["first_block"] <= 1.05 * analysis["eigenvalue"]["all"]


def test_the_loss_that_is_measured_is_the_mean_cross_entropy_of_training_images_without_augmentation(workdir, analysis):
    loaded = load_run(workdir)
    image, target = analysis_module._training_subset(loaded, 20)
    logits = loaded.model.apply(loaded.variables, image)
    expected = -(jax.nn.log_softmax(logits) * target).sum(-1).mean()
    assert analysis["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert analysis["accuracy"] == pytest.approx(float((logits.argmax(-1) == target.argmax(-1)).mean()))


def test_robustness_is_the_accuracy_on_corrupted_test_images(workdir, analysis):
    loaded = load_run(workdir)
    source = open_source(loaded.config.data, "test", seed=0)
    image = np.stack([np.asarray(source.record(i)["image"]) for i in range(len(source))]).reshape(len(source), 8, 8, 1)
    label = np.asarray([source.record(i)["label"] for i in range(len(source))])
    bad = corrupt(jax.random.key(0), image, np.arange(len(source)), name="contrast", severity=5)
    hits = loaded.model.apply(loaded.variables, loaded.normalize(bad)).argmax(-1) == label
    assert analysis["test"]["by_corruption"]["contrast"][1] == pytest.approx(float(hits.mean()))
    clean = loaded.model.apply(loaded.variables, loaded.normalize(image)).argmax(-1) == label
    assert analysis["test"]["accuracy"] == pytest.approx(float(clean.mean()))
    assert analysis["test"]["corrupted"] == pytest.approx(np.mean([*analysis["test"]["by_corruption"].values()]))


def test_a_loss_in_pieces_has_the_value_and_the_gradient_of_the_whole(workdir, monkeypatch):
    loaded = load_run(workdir)
    image, target = analysis_module._training_subset(loaded, 20)
    value_and_grad = lambda: jax.jit(jax.value_and_grad(analysis_module._loss(loaded)))(loaded.variables["params"], {}, image, target)
    whole = value_and_grad()
    monkeypatch.setattr(analysis_module, "_PIECE", 8 * 8 * 7)
    cut = value_and_grad()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, cut)


def test_the_parts_are_found_in_every_kind_of_network():
    first_blocks = {"vit_tiny_patch16_224": "blocks_0/", "mixer_s16_224": "blocks_0/", "resnet18": "layer1_0/", "convnext_tiny": "stages_0"}
    for name, first in first_blocks.items():
        model = create_model(name)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, *model.image_size, 3), np.float32)))["params"]
        parts = analysis_module._parts(shapes)
        found = [leaf for leaf in named_leaves(shapes) if re.search(parts["first_block"], leaf)]
        assert len(found) >= 4 and all(leaf.startswith(first) for leaf in found)
        assert not any(re.search(parts["first_block"], leaf) for leaf in named_leaves(shapes) if re.search(parts["last_block"], leaf))


def test_an_unknown_corruption_is_one_line(workdir):
    with pytest.raises(ConfigError, match="did you mean 'contrast'"):
        robustness(load_run(workdir), ("contrst",), (1,))


def test_the_command_refuses_a_config_and_a_folder_without_a_run(tmp_path):
    refused = run("--mode=analyse", f"--workdir={tmp_path}", "--config=configs/vit.py")
    assert refused.returncode == 2 and "leave --config out" in refused.stderr
    empty = run("--mode=analyse", f"--workdir={tmp_path}")
    assert empty.returncode == 2 and "holds no run" in empty.stderr and len(empty.stderr.strip().splitlines()) == 1
