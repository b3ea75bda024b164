"""Paper 65 in small: on Fashion-MNIST Patch Mixing gives a ConvNet more of what it lacks, patch selectivity, than it gives a vision transformer.

The runs are those of benchmarks/patch_mixing.py, in a process of its own, compiled as a user's are. The configuration: configs/patch_mixing.py.
Pending: seen once, and not as asked. At 30 and 40 % of the patches replaced the ConvNeXt gains 4.9 and 7.1 points (5 are asked of each) and is 2.2
and 2.0 ahead of CutMix, for 2.0 points of clean accuracy; the transformer, which is far from trained after six epochs, gains as much (4.7 in the mean
of 20, 30 and 40 % against 4.7). All figures are in docs/performance.md.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.runs import ROOT


def reached(*runs: str, folder) -> list[dict[str, float]]:
    """Accuracies in per cent of each run, clean and under each occlusion."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    words = [sys.executable, "benchmarks/patch_mixing.py", "--runs", *runs, f"--workdir={folder}"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads((folder / "found.json").read_text())
    return [found[run][0] for run in runs]


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_patch_mixing_gives_a_convnet_patch_selectivity_and_costs_no_clean_accuracy(tmp_path):
    none, cutmix, patch = reached("conv,none", "conv,cutmix", "conv,patch", folder=tmp_path)
    assert patch["accuracy"] >= none["accuracy"] - 2
    for share in (30, 40):
        assert patch[f"replaced_{share}"] >= none[f"replaced_{share}"] + 5
        assert patch[f"replaced_{share}"] >= cutmix[f"replaced_{share}"]


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_a_transformer_gains_less_than_a_convnet(tmp_path):
    runs = reached("conv,none", "conv,patch", "vit,none", "vit,patch", folder=tmp_path)
    mean = lambda run: sum(run[f"replaced_{share}"] for share in (20, 30, 40)) / 3
    none, patch, vit_none, vit_patch = map(mean, runs)
    print("gains:", patch - none, vit_patch - vit_none)
    assert patch - none > vit_patch - vit_none
