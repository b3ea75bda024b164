"""What sharpness-aware training costs: whole training steps (forward, backward, clipping, optimizer, metrics) with SAM over those without.

    python benchmarks/sam_cost.py --network=vit --size=96 --batch=32 --rounds=9
    python benchmarks/sam_cost.py --network=resnet --size=96 --batch=32 --rounds=9

ViT-S/16 with AdamW or ResNet-18 with momentum, float32, on random images. Plain steps and SAM in one group and in four take turns in one run, in an
order that changes every round. The ratio is that of the medians, once by the clock and once by processor time, which counts less of what else runs on
the machine. Compare figures of one run with one another.
"""

import argparse
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.train.config import complete

NETWORKS = {
    "vit": ("vit_small_patch16_224", {"name": "adamw", "lr": 1e-3, "weight_decay": 0.3, "clip": 1.0}),
    "resnet": ("resnet18", {"name": "momentum", "lr": 0.1, "weight_decay": 1e-3, "decay": "l2"}),
}
CASES = {"plain": {}, **{f"sam, {groups} groups": {"rule": "sam", "rho": 0.05, "groups": groups} for groups in (1, 4)}}


def make_step(network: str, size: int, batch_size: int, case: str):
    """(compiled step, its first state)."""
    name, optimizer = NETWORKS[network]
    config = complete(
        {
            "steps": 100,
            "batch_size": batch_size,
            "image_size": (size, size),
            "model": {"name": name},
            "data": {"mean": (0.5,) * 3, "std": (0.5,) * 3},
            "optim": {**optimizer, **CASES[case]},
        }
    )
    task = make_task(config, Problem(tuple(map(str, range(1000))), 3, 50 * batch_size, 100, 50.0))
    state = jax.jit(lambda: task.init(jax.random.key(0), {"image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)}, {}))()
    return jax.jit(task.train_step, donate_argnums=0), state


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(NETWORKS), default="vit")
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    random = np.random.RandomState(0)
    batch = {
        "image": random.randint(0, 256, (args.batch, args.size, args.size, 3)).astype(np.uint8),
        "label": random.randint(0, 1000, args.batch).astype(np.int32),
        "index": np.arange(args.batch, dtype=np.int32),
        "valid": np.ones(args.batch, bool),
    }
    batch = jax.device_put(batch)
    steps, states = {}, {}
    for case in CASES:
        steps[case], states[case] = make_step(args.network, args.size, args.batch, case)
        states[case], _ = jax.block_until_ready(steps[case](states[case], batch))
    clock, processor = ({case: [] for case in CASES} for _ in range(2))
    for round_number in range(args.rounds):
        for i in range(len(CASES)):
            case = list(CASES)[(i + round_number) % len(CASES)]
            began, used = time.perf_counter(), processor_seconds()
            states[case], _ = jax.block_until_ready(steps[case](states[case], batch))
            clock[case].append(time.perf_counter() - began)
            processor[case].append(processor_seconds() - used)
    print(f"{NETWORKS[args.network][0]}, {args.size}x{args.size}, batch {args.batch}, {args.rounds} rounds; medians over those of plain steps")
    for case in CASES:
        by_clock, by_processor = (statistics.median(times[case]) for times in (clock, processor))
        ratios = (by_clock / statistics.median(clock["plain"]), by_processor / statistics.median(processor["plain"]))
        print(f"{case:15s} {by_clock:7.3f} s, {by_processor:7.3f} s of processors; ratio {ratios[0]:.2f} and {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
