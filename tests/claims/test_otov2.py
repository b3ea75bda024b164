"""Paper 47, on scikit-learn's digits: one training that brings 60 % of the channel groups to zero costs little accuracy and the cut costs none;
groups taken from a dense network afterwards, at random or by magnitude, cost much."""

import json
import pathlib

import jax
import numpy as np
import pytest

import jaxvision
from jaxvision.compress.architecture import describe, prunable, resized
from jaxvision.compress.cut import cut
from jaxvision.compress.zero_invariant import group_norms, lowest
from jaxvision.data import open_source
from jaxvision.train.config import load_config
from jaxvision.train.loading import load_run

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "otov2.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache="]


def images_of(run):
    source = open_source(run.config.data, "test", seed=run.config.seed)
    records = [source.record(i) for i in range(len(source))]
    return run.normalize(np.stack([record["image"] for record in records])), np.asarray([record["label"] for record in records])


def accuracy(model, variables, images, labels) -> float:
    return float((jax.jit(model.apply)(variables, images).argmax(-1) == labels).mean())


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_groups_brought_to_zero_in_training_cost_little_and_their_cut_nothing(tmp_path):
    for seed in (0, 1):
        fit = lambda kind: jaxvision.fit(load_config(f"{CONFIG}:demo,{kind}", [*HERE, f"--config.seed={seed}"]), tmp_path / f"{kind}_{seed}")
        dense, pruned = fit("dense")["test/accuracy"], fit("pruned")
        figures = json.loads((tmp_path / f"pruned_{seed}" / "architecture.json").read_text())["figures"]
        run, whole = load_run(tmp_path / f"pruned_{seed}"), load_run(tmp_path / f"dense_{seed}")
        images, labels = images_of(run)
        small = accuracy(run.model, run.variables, images, labels)
        graph = prunable(whole.model, 1)
        norms = group_norms(whole.variables, graph)
        random = np.random.RandomState(seed)
        afterwards = {}
        for name, scores in (("magnitude", norms), ("random", {key: random.rand(len(value)) for key, value in norms.items()})):
            keep = lowest(scores, pruned["test/zero_share"])
            model = resized(whole.model, describe(whole.model, graph, {key: int(mask.sum()) for key, mask in keep.items()}, 1))
            afterwards[name] = accuracy(model, cut(whole.variables, graph, keep), images, labels)
        share = pruned["test/zero_share"]
        print({"seed": seed, "dense": dense, "pruned": pruned["test/accuracy"], "small": small, "share": share, **afterwards, **figures})
        assert 0.6 <= share <= 0.66
        assert abs(small - pruned["test/accuracy"]) < 1e-6 and figures["difference"] < 1e-4
        assert figures["parameters"] < 0.5 * 77_000
        assert pruned["test/accuracy"] > dense - 0.02
        assert pruned["test/accuracy"] > max(afterwards.values()) + 0.2
