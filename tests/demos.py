"""Every config's `demo` for two steps, in two files that run side by side. Whole trainings are claims (tests/claims)."""

import pathlib

import numpy as np

from jaxvision import fit
from jaxvision.train.config import complete, load_config, plain
from jaxvision.train.writers import read_metrics
from tests.runs import ROOT

# All but what trains nothing: the table of the kernels, and the steps that preflight prices.
DEMOS = sorted({path.name for path in (ROOT / "configs").glob("*.py")} - {"bench_kernels.py", "step.py"})


def demo(name: str):
    return load_config(f"{ROOT / 'configs' / name}:demo")


CLASSIFIERS = [name for name in DEMOS if demo(name).task.name == "classify"]
OTHERS = [name for name in DEMOS if name not in CLASSIFIERS]


def shortened(config, steps: int = 2):
    """The config with every stage cut to a few steps of few examples, and nothing cached."""
    tree = plain(config) | {"epochs": None, "steps": steps, "eval_every": None, "writers": ("jsonl",), "compilation_cache": ""}
    cut = {"epochs": None, "steps": steps, "eval_every": None}
    tree["stages"] = tuple((name, {**changes, **cut}) for name, changes in tree["stages"])
    if tree["data"].get("count"):  # of examples that are drawn
        tree["data"] = {**tree["data"], "count": min(tree["data"]["count"], 256)}
    if tree["phases"]:  # a curriculum keeps its first and its last phase, a step each
        ends = (tree["phases"][0], tree["phases"][-1])
        first, last = ({key: value for key, value in phase.items() if key not in ("until", "schedule")} for phase in ends)
        tree["phases"] = ({**first, "until": steps - 1}, last)
    return complete(tree)


def two_steps(name: str, workdir: pathlib.Path) -> None:
    """It builds, trains, evaluates and writes."""
    metrics = fit(shortened(demo(name)), workdir, report=lambda line: None)
    assert metrics and all(np.isfinite(value) for value in metrics.values()), metrics
    last = read_metrics(workdir)[-1]
    assert last["step"] > 0 and {name for name in metrics} <= last.keys()
