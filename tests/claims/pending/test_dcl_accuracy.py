"""Paper 70: at batch 16, on pictures of shapes that raw pixels do not tell apart, the decoupled loss should give better features than InfoNCE in the
same number of epochs. Published on CIFAR-10: + 6 points at batch 32, + 2 at 256. Not yet seen here; on digits the two are level (tests/claims)."""

import pathlib
import statistics

import pytest

import jaxvision
from jaxvision.train.config import complete, load_config, with_changes
from jaxvision.train.stages import stage_configs

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "surgical_ssl.py"
QUIET = {"mesh.data": 1, "writers": ("jsonl",), "compilation_cache": "", "eval_every": 10**6, "checkpoint.every": 10**6}
SGD = {"optim.name": "momentum", "optim.lr": 0.03, "optim.weight_decay": 0.0, "batch_size": 16, "epochs": 6}


def accuracy(loss, seed, folder):
    config = dict(stage_configs(load_config(f"{CONFIG}:demo,simclr")))["pretrain"]
    changes = {**QUIET, **SGD, "seed": seed, "task.name": "ssl/dcl", "task.loss": loss, "task.temperature": 0.1}
    return jaxvision.fit(complete(with_changes(config, changes)), folder, report=lambda line: None)["test/knn"]


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_small_batches_learn_more_without_the_coupling(tmp_path):
    found = {loss: [accuracy(loss, seed, tmp_path / f"{loss}{seed}") for seed in range(3)] for loss in ("info_nce", "dcl")}
    print(found)
    assert statistics.fmean(found["dcl"]) > statistics.fmean(found["info_nce"])
