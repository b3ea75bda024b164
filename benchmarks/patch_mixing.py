"""What Patch Mixing gives a ConvNet and a vision transformer on Fashion-MNIST: accuracy, clean and under occlusion.

    python benchmarks/patch_mixing.py --runs=conv,none conv,cutmix conv,patch vit,none vit,patch --workdir=runs/patch_mixing
    python benchmarks/patch_mixing.py --runs=conv,none conv,patch vit,none vit,patch --workdir=runs/patch_mixing --figure=runs/patch_mixing.png

A run is configs/patch_mixing.py:fashion,<network>,<mixing>; finished ones in the workdir are evaluated and not trained again. The picture shows, for
each run, accuracy against the share of patches that are replaced by one picture's or by many pictures', or dropped, and with --tiles against the
number of shuffled tiles; shaded is the range of the seeds.
"""

import argparse
import importlib.util
import json
import pathlib

import numpy as np

import jaxvision
from jaxvision.train.config import complete

ROOT = pathlib.Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("patch_mixing_config", ROOT / "configs" / "patch_mixing.py")
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)
WAYS = {"replaced": "patches of one picture\nof another class", "scattered": "each patch of\nanother picture", "dropped": "patches dropped"}


def reached(args: argparse.Namespace, run: str, seed: int) -> dict[str, float]:
    """Accuracies in per cent of one run: clean, and under each occlusion."""
    config = published.fashion(*run.split(","))
    config.seed, config.epochs, config.data.limit, config.writers, config.mesh = seed, args.epochs, args.examples, ("jsonl",), {"data": 1}
    config.task.shares, config.task.tiles, config.compilation_cache = tuple(args.shares), tuple(args.tiles), str(args.workdir / "cache")
    metrics = jaxvision.fit(complete(config), args.workdir / f"{run.replace(',', '_')}_{seed}", report=lambda line: None)
    return {name.removeprefix("test/"): 100 * value for name, value in metrics.items() if name != "test/loss"}


def draw(found: dict[str, list[dict[str, float]]], shares: list[float], tiles: list[int], path: pathlib.Path) -> None:
    """A panel a way of hiding the picture, mean and range of the seeds against how much of it is hidden."""
    from matplotlib.figure import Figure

    panels = [(name, title, "patches, %", [100 * share for share in shares], 0.0) for name, title in WAYS.items()]
    panels += [("permuted", "tiles shuffled", "tiles a side", tiles, 1)] if tiles else []
    figure = Figure(figsize=(2.7 * len(panels) + 0.6, 2.9), layout="constrained")
    for axes, (name, title, label, amounts, least) in zip(figure.subplots(1, len(panels), sharey=True), panels):
        for number, (run, seeds) in enumerate(found.items()):
            values = np.array([[seed[key] for key in ("accuracy", *(f"{name}_{amount:g}" for amount in amounts))] for seed in seeds])
            colour, place = f"C{number}", [least, *amounts]
            axes.fill_between(place, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
            style = "--" if run.endswith("none") else "-"
            axes.plot(place, values.mean(0), style, color=colour, marker="o", markersize=3, label=run.replace(",", ", "))
        axes.set_title(title, fontsize=9)
        axes.set_xticks([least, *amounts])
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("accuracy, %")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=["conv,none", "conv,patch"], metavar="NETWORK,MIXING")
    parser.add_argument("--examples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.3, 0.4])
    parser.add_argument("--tiles", type=int, nargs="*", default=[], help="a side, of which shuffled; they must divide 28")
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
        draw(found, args.shares, args.tiles, args.figure)


if __name__ == "__main__":
    main()
