"""Paper 65 in small: on Fashion-MNIST Patch Mixing gives a ConvNet what it lacks, patch selectivity.

The runs are those of benchmarks/patch_mixing.py, in a process of its own, compiled as a user's are. The configuration: configs/patch_mixing.py.
Seen with 8,000 pictures and 6 epochs, seeds 0 and 1: with 30 and 40 % of the patches replaced by those of a picture of another class the ConvNeXt
gains 7.0, 7.8 and 7.8, 8.4 points over no mixing and 2.3, 2.4 and 3.2, 3.2 over CutMix, for 1.7 and 1.5 points of clean accuracy. All figures are in
docs/performance.md. That a transformer gains less: pending/test_patch_mixing_vit.py.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.runs import ROOT


def reached(*runs: str, folder, words: tuple[str, ...] = ()) -> list[dict[str, float]]:
    """Accuracies in per cent of each run, clean and under each occlusion."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    command = [sys.executable, "benchmarks/patch_mixing.py", "--runs", *runs, f"--workdir={folder}", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads((folder / "found.json").read_text())
    return [found[run][0] for run in runs]


WORDS = ("--examples=8000", "--shares", "0.3", "0.4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where finished runs are found again, and not trained a second time."""
    return tmp_path_factory.mktemp("patch_mixing")


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_patch_mixing_gives_a_convnet_patch_selectivity_and_costs_little_clean_accuracy(folder):
    none, patch = reached("conv,none", "conv,patch", folder=folder, words=WORDS)
    assert patch["accuracy"] >= none["accuracy"] - 2
    for share in (30, 40):
        assert patch[f"replaced_{share}"] >= none[f"replaced_{share}"] + 5


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_patch_mixing_gives_more_of_it_than_cutmix(folder):
    patch, cutmix = reached("conv,patch", "conv,cutmix", folder=folder, words=WORDS)
    for share in (30, 40):
        assert patch[f"replaced_{share}"] >= cutmix[f"replaced_{share}"] + 1
