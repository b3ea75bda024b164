"""A run that prunes while it trains: groups exactly zero, a smaller network with the same outputs, and a stage that goes on from it."""

import json

import jax
import numpy as np
import pytest

import jaxvision
from jaxvision import interop
from jaxvision.compress.zero_invariant import group_norms, lowest
from jaxvision.errors import CheckpointError, ConfigError
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem, count
from jaxvision.train.architecture import FILE
from jaxvision.train.export_mode import export
from jaxvision.train.modes import evaluate
from tests.runs import tiny

MODEL = {"name": "resnet20_cifar", "depths": (1,), "widths": (8,), "zero_init": False}
PRUNE = {"name": "otov2", "target": 0.5, "start": 4, "weight": 5.0, "largest": 100.0}
TUNE = {"model.architecture": "stage:prune", "init_from": "stage:prune", "optim.lr": 0.0, "steps": 1}


def config(**changes):
    stages = (("prune", {"task": PRUNE}), ("tune", TUNE))
    base = {"steps": 24, "model": dict(MODEL), "optim": {"name": "momentum", "lr": 0.05}, "stages": stages}
    return tiny(**{**base, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir, said = tmp_path_factory.mktemp("runs") / "oto", []
    metrics = jaxvision.fit(config(), workdir, report=said.append)
    return workdir, metrics, said


def test_the_run_ends_with_dead_groups_and_a_smaller_network_of_the_same_outputs(finished):
    workdir, _, said = finished
    written = json.loads((workdir / "prune" / FILE).read_text())
    figures = written["figures"]
    assert figures["groups"] == 16 and 8 <= figures["groups_cut"] <= 9 and figures["difference"] < 1e-5
    assert any("parameters, outputs differ by at most" in line for line in said)
    pruned = evaluate(None, workdir, stage="prune", report=lambda line: None)
    assert pruned["test/zero_share"] == pytest.approx(figures["groups_cut"] / 16)


def test_load_run_and_export_take_the_smaller_network(finished, tmp_path):
    workdir, *_ = finished
    run = jaxvision.load_run(workdir, stage="prune")
    figures = json.loads((workdir / "prune" / FILE).read_text())["figures"]
    assert count(run.variables["params"]) == figures["parameters"] < 800
    image = np.random.RandomState(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    logits = run.model.apply(run.variables, image)
    said = []
    folder = export(workdir, stage="prune", output=tmp_path / "small", report=said.append)
    np.testing.assert_allclose(interop.load_exported(folder)(image), logits, atol=1e-5)
    jaxvision.save_pretrained(run.model, run.variables, tmp_path / "small.safetensors")
    loaded = jaxvision.load_pretrained(run.model, tmp_path / "small.safetensors", channels=1)
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(run.variables))


def test_the_next_stage_goes_on_from_the_smaller_network(finished):
    workdir, metrics, _ = finished
    before = evaluate(None, workdir, stage="prune", report=lambda line: None)
    assert metrics["test/loss"] == pytest.approx(before["test/loss"], rel=0.5)  # running statistics moved by one step
    tuned, pruned = jaxvision.load_run(workdir), jaxvision.load_run(workdir, stage="prune")
    jax.tree.map(np.testing.assert_array_equal, tuned.variables["params"], pruned.variables["params"])
    assert dict(tuned.config.model)["architecture"] == dict(pruned.config.model)["architecture"]


def test_what_cannot_be_is_one_line(tmp_path):
    problem = Problem(("a", "b"), 1, train_size=100, total_steps=24, steps_per_epoch=6.0)
    wrong = ({"optim__ema": 0.9}, r"optim\.ema"), *(({"task": {**PRUNE, key: 1.5}}, rf"task\.{key}") for key in ("target", "most", "decay_norm"))
    for changes, named in wrong:
        with pytest.raises(ConfigError, match=named):
            make_task(tiny(**{"task": PRUNE, "optim__ema": None, **changes}), problem)
    with pytest.raises(ConfigError, match="prune"):
        stages = (("prune", {"task": PRUNE, "steps": 1}), ("tune", {**TUNE, "model.architecture": "stage:prun"}))
        jaxvision.fit(config(stages=stages), tmp_path / "c", report=lambda line: None)
    with pytest.raises(CheckpointError, match=FILE):
        jaxvision.fit(config(stages=(), model__architecture=str(tmp_path)), tmp_path / "d", report=lambda line: None)


def test_lowest_groups_go_first_and_each_component_keeps_one(finished):
    run = jaxvision.load_run(finished[0])
    from jaxvision.compress.architecture import prunable

    norms = group_norms(run.variables, prunable(run.model, 1))
    keep = lowest(norms, 0.99)
    assert all(kept.sum() == 1 and kept[np.argmax(norms[name])] for name, kept in keep.items())
