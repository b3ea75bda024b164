"""Paper 34, on 300 of scikit-learn's digits without augmentation: around AdamW, SAM ends in flatter minima that classify held-out digits better,
also under corruptions, and with fewer active hidden units in the first MLP.

Each network is trained with and without SAM, the same number of steps, from the same four seeds. The dominant Hessian eigenvalue is that of the
training loss on the same 300 images. Means seen, plain and SAM: ViT 76.3 and 80.4 %, eigenvalue 3.7 and 1.4; Mixer 89.7 and 91.0 %, 0.84 and 0.20.
"""

import pathlib

import jax
import numpy as np
import pytest

import jaxvision
from jaxvision.optim import active_share, dominant_eigenvalue
from jaxvision.train.analysis import _loss, _training_subset, robustness
from jaxvision.train.config import load_config
from jaxvision.train.loading import load_run

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "sam_vit.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache="]
SEEDS = 4


def measure(variant: str, seed: int, workdir: pathlib.Path) -> dict[str, float]:
    config = load_config(f"{CONFIG}:{variant}", [*HERE, f"--config.seed={seed}"])
    metrics = jaxvision.fit(config, workdir, report=lambda line: None)
    run = load_run(workdir)
    image, target = _training_subset(run, 300)
    params = jax.device_put(run.variables["params"])
    logits, kept = run.model.apply(run.variables, image, mutable="taps")
    return {
        "accuracy": metrics["test/accuracy"],
        "loss": metrics["test/loss"],
        "training_loss": float(run.task.per_example_loss(logits, target).mean()),
        "eigenvalue": dominant_eigenvalue(_loss(run), params, jax.random.key(0), {}, image, target, iterations=12),
        "first_active": next(iter(active_share(kept["taps"], only="pre_activation").values())),
        "corrupted": robustness(run, severities=(5,))["corrupted"],
    }


def compare(family: str, folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """{"plain", "sam": means over the seeds}."""
    means = {}
    for rule, suffix in (("plain", ",plain"), ("sam", "")):
        runs = [measure(f"demo,{family}{suffix}", seed, folder / f"{rule}_{seed}") for seed in range(SEEDS)]
        means[rule] = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        print(family, rule, means[rule], "accuracies", [round(run["accuracy"], 3) for run in runs], flush=True)
    return means


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", ["vit", "mixer"])
def test_sam_flattens_the_minimum_and_classifies_held_out_digits_better(family, tmp_path):
    means = compare(family, tmp_path)
    plain, sam = means["plain"], means["sam"]
    assert sam["eigenvalue"] < plain["eigenvalue"] / 2
    assert sam["accuracy"] > plain["accuracy"]
    assert sam["loss"] < 0.95 * plain["loss"]
    assert sam["corrupted"] > plain["corrupted"]
    assert sam["first_active"] < plain["first_active"]
