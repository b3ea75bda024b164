"""Paper 70, small: InfoNCE's gradients shrink by q, which is small in small batches; without the positive in the denominator they do not. What is
learned from small batches is compared over several networks in test_dcl_training.py: of one network each, k-NN accuracies of digits differ by more
between two processors than between the losses (92.8 % by InfoNCE and 89.7 by the decoupled loss on one, level on another)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvision
from jaxvision.tasks.ssl import contrastive as c
from jaxvision.train.config import complete, load_config, with_changes
from jaxvision.train.stages import stage_configs
from jaxvision.train.writers import read_metrics

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
QUIET = {"mesh.data": 1, "writers": ("jsonl",), "compilation_cache": "", "eval_every": 10**6, "checkpoint.every": 10**6, "log_every": 20}


def pretrained(batch_size, folder):
    """(k-NN accuracy, mean q of the last fifth of the steps) after twelve epochs of InfoNCE by the demo's first stage."""
    config = dict(stage_configs(load_config(f"{CONFIGS}/dcl.py:demo,info_nce")))["pretrain"]
    metrics = jaxvision.fit(complete(with_changes(config, {**QUIET, "batch_size": batch_size, "epochs": 12})), folder, report=lambda line: None)
    coupling = [line["train/coupling"] for line in read_metrics(folder) if "train/coupling" in line]
    return metrics["test/knn"], float(np.mean(coupling[-max(1, len(coupling) // 5) :]))


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_the_coupling_is_strong_in_small_batches_and_weak_in_large_ones(tmp_path):
    coupling = {}
    for batch in (16, 256):
        accuracy, coupling[batch] = pretrained(batch, tmp_path / f"{batch}")
        print(batch, {"accuracy": accuracy, "coupling": coupling[batch]}, flush=True)
    assert coupling[16] < 0.75 and coupling[256] > 0.9


@pytest.mark.claim
@pytest.mark.timeout(60)
def test_the_ratio_of_gradient_norms_is_q():
    """Of embeddings whose pairs grow closer: InfoNCE's gradient falls away with q, the decoupled one's stays."""
    random, rows = np.random.RandomState(0), []
    anchors = random.normal(size=(16, 1, 32))
    for noise in (2.0, 1.0, 0.5, 0.2):
        z = anchors + noise * random.normal(size=(16, 2, 32))
        z = jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True), jnp.float32)
        norms = [float(optax.global_norm(jax.grad(lambda z, f=f: f(c.pairs(z, 0.1)).mean())(z))) for f in (c.info_nce, c.decoupled)]
        rows.append((float(c.coupling(c.pairs(z, 0.1)).mean()), norms[0] / norms[1], norms[1]))
        print({"q": rows[-1][0], "ratio": rows[-1][1], "decoupled": norms[1]})
    q, ratio, decoupled = np.array(rows).T
    assert np.all(np.diff(q) < 0) and np.abs(ratio - q).max() < 0.15
    assert ratio[-1] < 0.1 * ratio[0] and decoupled[-1] > 0.5 * decoupled[0]
