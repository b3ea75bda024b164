"""What Patch Mixing gives a ConvNet and a vision transformer on Fashion-MNIST: accuracy, clean and with patches of another class in the picture.

    python benchmarks/patch_mixing.py --runs=conv,none conv,cutmix conv,patch vit,none vit,patch --workdir=runs/patch_mixing
    python benchmarks/patch_mixing.py --runs=conv,none conv,patch vit,none vit,patch --workdir=runs/patch_mixing --figure=runs/patch_mixing.png

A run is configs/patch_mixing.py:fashion,<network>,<mixing>; finished ones in the workdir are evaluated and not trained again. The picture shows, for
each run, accuracy against the share of patches that another class's picture fills.
"""

import argparse
import importlib.util
import json
import pathlib

import jaxvision
from jaxvision.train.config import complete

ROOT = pathlib.Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("patch_mixing_config", ROOT / "configs" / "patch_mixing.py")
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)


def reached(args: argparse.Namespace, run: str, seed: int) -> dict[str, float]:
    """Accuracies in per cent of one run: clean, and under each occlusion."""
    config = published.fashion(*run.split(","))
    config.seed, config.epochs, config.data.limit, config.writers, config.mesh = seed, args.epochs, args.examples, ("jsonl",), {"data": 1}
    config.task.shares, config.task.tiles, config.compilation_cache = tuple(args.shares), (), str(args.workdir / "cache")
    metrics = jaxvision.fit(complete(config), args.workdir / f"{run.replace(',', '_')}_{seed}", report=lambda line: None)
    return {name.removeprefix("test/"): 100 * value for name, value in metrics.items() if name != "test/loss"}


def draw(found: dict[str, list[dict[str, float]]], shares: list[float], path: pathlib.Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for run, seeds in found.items():
        names = ["accuracy", *(f"replaced_{100 * share:g}" for share in shares)]
        means = [sum(seed[name] for seed in seeds) / len(seeds) for name in names]
        axes.plot([0, *(100 * share for share in shares)], means, "--" if run.endswith("none") else "-", marker="o", label=run.replace(",", ", "))
    axes.set_xlabel("patches of another class, %")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=["conv,none", "conv,patch"], metavar="NETWORK,MIXING")
    parser.add_argument("--examples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.3, 0.4])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--figure", type=pathlib.Path, default=None, help="PNG to draw")
    args = parser.parse_args()
    found = {run: [] for run in args.runs}
    for seed in args.seeds:
        for run in args.runs:
            found[run].append(reached(args, run, seed))
            print(f"{run}, seed {seed}:", ", ".join(f"{name} {value:.1f}" for name, value in found[run][-1].items()), flush=True)
    (args.workdir / "found.json").write_text(json.dumps(found))
    if args.figure:
        draw(found, args.shares, args.figure)


if __name__ == "__main__":
    main()
