"""Paper 70, trained: on pictures of shapes, which raw pixels do not tell apart, the decoupled loss should give better features than InfoNCE at batch
16 in the same number of epochs (published on CIFAR-10: + 6 points at batch 32, + 2 at 256). Not yet seen here; on digits the two are level."""

import pathlib
import statistics

import numpy as np
import pytest

import jaxvision
from jaxvision.train.config import complete, load_config, with_changes
from jaxvision.train.stages import stage_configs
from jaxvision.train.writers import read_metrics

CONFIGS = pathlib.Path(__file__).resolve().parents[3] / "configs"
QUIET = {"mesh.data": 1, "writers": ("jsonl",), "compilation_cache": "", "eval_every": 10**6, "checkpoint.every": 10**6, "log_every": 20}
SGD = {"optim.name": "momentum", "optim.lr": 0.03, "optim.weight_decay": 0.0, "batch_size": 16, "epochs": 6}


def pretrained(spec, folder, **changes):
    """(k-NN accuracy, mean q of the last fifth of the steps) of the first stage of a demo."""
    config = dict(stage_configs(load_config(f"{CONFIGS}/{spec}")))["pretrain"]
    metrics = jaxvision.fit(complete(with_changes(config, {**QUIET, **changes})), folder, report=lambda line: None)
    coupling = [line["train/coupling"] for line in read_metrics(folder) if "train/coupling" in line]
    return metrics["test/knn"], float(np.mean(coupling[-max(1, len(coupling) // 5) :]))


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_small_batches_learn_more_without_the_coupling(tmp_path):
    found = {}
    for loss in ("info_nce", "dcl"):
        changes = {**SGD, "task.name": "ssl/dcl", "task.loss": loss, "task.temperature": 0.1}
        runs = [pretrained("surgical_ssl.py:demo,simclr", tmp_path / f"{loss}{seed}", seed=seed, **changes) for seed in range(3)]
        found[loss] = [accuracy for accuracy, _ in runs]
    print(found)
    assert statistics.fmean(found["dcl"]) > statistics.fmean(found["info_nce"])
