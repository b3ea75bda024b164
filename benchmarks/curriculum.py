"""What EfficientTrain's curriculum saves on Fashion-MNIST and digits: accuracy, multiply-adds, seconds of whole runs, time of steps.

    python benchmarks/curriculum.py --kind=resnet --seeds=3 --workdir=runs/curriculum
    python benchmarks/curriculum.py --kind=resnet --seeds=3 --workdir=runs/curriculum --figure=docs/images/efficienttrain.png
    python benchmarks/curriculum.py --kind=digits --epochs=40 --examples=1437 --seeds=3 --workdir=runs/curriculum

Three arms take turns, in an order that changes with the seed: the baseline of T epochs, the curriculum of T epochs, and the baseline cut to the
curriculum's compute (configs/efficienttrain.py:fashion, :digits). Seed 0 compiles, so its seconds are listed and left out of the ratio; finished
runs in the workdir are not run again. The steps of all sizes take turns too, by processor time, so that what else runs on the machine matters less.
With --figure every epoch is evaluated; seconds are given with these evaluations and without, and drawn without.
"""

import argparse
import importlib.util
import itertools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp

import jaxvision
from jaxvision.models.complexity import complexity
from jaxvision.tasks.networks import build_model
from jaxvision.train.config import complete
from jaxvision.train.phase_figures import overview
from jaxvision.train.phases import plan
from jaxvision.train.setup import in_phase, set_up
from jaxvision.train.writers import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("efficienttrain_config", ROOT / "configs" / "efficienttrain.py")
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)
ARMS = ("baseline", "curriculum", "cut")


def config_of(args: argparse.Namespace, arm: str, seed: int = 0):
    config = published.digits(arm, args.epochs) if args.kind == "digits" else published.fashion(args.kind, arm, args.epochs)
    config.seed, config.data.limit, config.log_every = seed, args.examples, 25
    config.eval_every = args.examples // config.batch_size if args.figure else 10**6
    config.writers, config.mesh, config.checkpoint = ("jsonl",), {"data": 1}, {"every": 10**6}
    config.compilation_cache = str(args.workdir / "cache")
    return complete(config)


def multiply_adds(config) -> float:
    """Of all training steps, forward and backward counted as three forward passes."""
    cost = 0.0
    for phase in plan(config, config.data.limit):
        model = build_model(phase.config(config), num_classes=10)
        cost += 3 * complexity(model, channels=1).flops * phase.batch * (phase.stop - phase.start)
    return cost


def whole_runs(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """{arm: {"accuracy": in per cent, "seconds": to the last step, "training": without the evaluations before it} a seed}."""
    found = {arm: {"accuracy": [], "seconds": [], "training": []} for arm in ARMS}
    for seed in range(args.seeds):
        for arm in ARMS[seed % 3 :] + ARMS[: seed % 3]:
            workdir = folder(args, arm, seed)
            metrics = jaxvision.fit(config_of(args, arm, seed), workdir, report=lambda line: None)
            seconds, evaluating = clock(workdir)
            found[arm]["accuracy"].append(100 * metrics["test/accuracy"])
            found[arm]["seconds"].append(seconds)
            found[arm]["training"].append(seconds - evaluating)
            accuracy = found[arm]["accuracy"][-1]
            print(f"{args.kind}, seed {seed}, {arm}: {accuracy:.2f} %, {seconds:.1f} s, evaluations {evaluating:.1f} s of that", flush=True)
    return found


def clock(workdir: pathlib.Path) -> tuple[float, float]:
    """(seconds from the first step to the last, what the evaluations between them took), from the lines that a run wrote."""
    lines = read_metrics(workdir)
    last = max(number for number, line in enumerate(lines) if "train/loss" in line)
    spans = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(lines[: last + 1]) if "test/accuracy" in after]
    return lines[last]["seconds"], sum(spans)


def folder(args: argparse.Namespace, arm: str, seed: int) -> pathlib.Path:
    return args.workdir / f"{args.kind}_{arm}_{seed}"


def single_steps(args: argparse.Namespace, rounds: int = 9) -> tuple[dict[int, float], float]:
    """({pixels: milliseconds of processor time of a step}, what the baseline's steps take over what the curriculum's take)."""
    setup = set_up(config_of(args, "curriculum"))
    batch = jax.tree.map(jnp.asarray, dict(next(setup.train_stream())))
    runs, spent = {}, {}
    for number, phase in enumerate(setup.plan):
        if phase.size[0] not in runs:
            one = in_phase(setup, number)
            with jax.set_mesh(one.mesh):
                state = jax.jit(lambda one=one: one.task.init(jax.random.key(0), one.shapes, {}))()
                step = jax.jit(one.task.train_step).lower(state, batch).compile()
            runs[phase.size[0]] = lambda step=step, state=state: jax.block_until_ready(step(state, batch))
    for _ in range(rounds):
        for size, run in runs.items():
            began = time.process_time()
            run()
            spent.setdefault(size, []).append(1e3 * (time.process_time() - began))
    cost = {size: statistics.median(values[1:]) for size, values in spent.items()}
    of_curriculum = sum((phase.stop - phase.start) * cost[phase.size[0]] for phase in setup.plan)
    return cost, setup.total_steps * cost[setup.plan[-1].size[0]] / of_curriculum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=("vit", "conv", "resnet", "digits"), default="vit")
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2, help="runs an arm; 0 for the time of steps alone")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--figure", type=pathlib.Path, default=None, help="PNG to draw")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    compute = {arm: multiply_adds(config_of(args, arm)) for arm in ARMS}
    cost, by_steps = single_steps(args)
    print(f"{args.kind}: a step takes", ", ".join(f"{value:.1f} ms at {size} px" for size, value in cost.items()))
    print(f"{args.kind}: steps of baseline / curriculum {by_steps:.2f}")
    result = {"compute": {arm: value / compute["baseline"] for arm, value in compute.items()}, "steps": cost, "by_steps": by_steps}
    if args.seeds:
        result["runs"] = runs = whole_runs(args)
        for arm, values in runs.items():
            print(f"{args.kind}, {arm}: multiply-adds {result['compute'][arm]:.3f}, accuracy {statistics.fmean(values['accuracy']):.2f} %")
    if args.seeds > 1:
        for name, key in (("by_clock", "seconds"), ("by_training", "training")):
            pairs = zip(runs["baseline"][key][1:], runs["curriculum"][key][1:])
            result[name] = statistics.median(slow / fast for slow, fast in pairs)
        print(f"{args.kind}: seconds of baseline / curriculum {result['by_clock']:.2f}, without evaluations {result['by_training']:.2f}")
    if args.figure:
        sizes = list(cost)
        names = dict(zip(ARMS, (f"all at {sizes[-1]} px", f"{', '.join(map(str, sizes))} px", f"{sizes[-1]} px, same compute")))
        workdirs = {names[arm]: [folder(args, arm, seed) for seed in range(min(1, args.seeds - 1), args.seeds)] for arm in ARMS}
        print(overview(set_up(config_of(args, "curriculum")), workdirs, args.figure))
    (args.workdir / f"{args.kind}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
