"""What the training loop adds to a step: wall time a step of the running loop, minus the same executable called back to back on a resident batch.

    python benchmarks/loop_overhead.py [--config=configs/vit.py:digits] [--steps=400] [--rounds=5]

The two are timed in turn, in one process, and the median difference is printed. A busy machine makes both slower; compare within one run.
"""

import argparse
import os
import statistics
import tempfile
import time

from jaxvision.main import choose_platform

choose_platform(os.environ)

import jax  # noqa: E402

from jaxvision.train.config import load_config, with_changes  # noqa: E402
from jaxvision.train.feed import Feed  # noqa: E402
from jaxvision.train.loop import train  # noqa: E402
from jaxvision.train.mesh import batch_sharding  # noqa: E402
from jaxvision.train.setup import Executables, set_up  # noqa: E402
from jaxvision.train.writers import read_metrics  # noqa: E402

WARM = 100


def in_the_loop(config, steps: int) -> float:
    """Seconds a step, by the loop's own metrics between two log lines."""
    with tempfile.TemporaryDirectory() as workdir:
        train(with_changes(config, {"steps": WARM + steps}), workdir, report=lambda line: None)
        seconds = {line["step"]: line["seconds"] for line in read_metrics(workdir) if "train/loss" in line}
        return (seconds[WARM + steps] - seconds[WARM]) / steps


def resident(config, steps: int) -> float:
    """Seconds a step of the same executable on one batch that lies on the device."""
    setup = set_up(with_changes(config, {"steps": WARM + steps}))
    executables = Executables(setup)
    with jax.set_mesh(setup.mesh):
        carry, frozen = executables.init(setup.given)
        feed = Feed(setup.train_stream(), batch_sharding(setup.mesh))
        item = next(feed)
        feed.close()
        for step in range(WARM + steps):
            if step == WARM:
                jax.block_until_ready(carry)
                began = time.perf_counter()
            carry, vector = executables.train_step(carry, frozen, item.arrays, item.layout, setup.task.static(step))
        jax.block_until_ready((carry, vector))
        return (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/vit.py:digits")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    changes = {"eval_every": 10**9, "checkpoint.every": 10**9, "log_every": 50, "epochs": None, "steps": args.steps, "writers": ("jsonl",)}
    config = with_changes(load_config(args.config), changes)
    differences = []
    for number in range(args.rounds):
        loop, bare = in_the_loop(config, args.steps), resident(config, args.steps)
        differences.append(1000 * (loop - bare))
        print(f"round {number + 1}: loop {1000 * loop:.2f} ms a step, alone {1000 * bare:.2f}, overhead {differences[-1]:+.2f} ms", flush=True)
    print(f"loop overhead, median of {args.rounds}: {statistics.median(differences):+.2f} ms a step")


if __name__ == "__main__":
    main()
