"""Latency on CPU of ConvFirst blocks against ConvNeXt's at equal multiply-adds, inference, float32 (Lavin 2024, arXiv 2404.03617).

    python benchmarks/convfirst_latency.py [--sizes=16,224] [--rounds=9] [--batch=8]

The two networks are those of configs/convfirst.py:demo, of which tests/claims/test_convfirst.py holds ConvFirst to at most a point behind on digits
at 16 pixels, and, at larger sizes, ConvFirstNet-tiny and the network of depthwise 7x7 blocks of its widths and depths, at about its multiply-adds,
whose accuracies are not known. The two take turns in one process; printed are medians and shortest times, and ratios (above 1: ConvFirst is faster).
"""

import argparse
import os
import statistics

from turns import keep_freed_memory, timed

DIGITS = {"depths": (3, 3), "dims": (32, 64), "stem": 16, "hidden": 128, "num_classes": 10}


def network(kind: str, size: int):
    """(model, its image's channels)."""
    from jaxvision.models.convfirst import ConvFirstNet

    if size <= 32:
        return ConvFirstNet(block=kind, image_size=(size, size), **DIGITS), 1
    return ConvFirstNet(block=kind, image_size=(size, size)), 3


def step_of(kind: str, size: int, batch: int):
    """(a function that runs inference once to its end, multiply-adds of one image)."""
    import jax

    from jaxvision.models.complexity import complexity

    model, channels = network(kind, size)
    image = jax.random.normal(jax.random.key(0), (batch, size, size, channels))
    variables = jax.jit(lambda key: model.init(key, image[:1], train=False))(jax.random.key(1))
    forward = jax.jit(lambda variables, image: model.apply(variables, image, train=False))
    return lambda: jax.block_until_ready(forward(variables, image)), complexity(model, 1).flops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="16,224")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    keep_freed_memory()
    for size in map(int, given.sizes.split(",")):
        kinds = ("convfirst", "convnext")
        steps, macs = zip(*(step_of(kind, size, given.batch) for kind in kinds))
        # Short steps are repeated until a turn is long enough to be timed.
        for step in steps:
            step()
        repeats = max(1, int(0.05 / timed(steps[0])["wall"]))
        turns = [[timed(lambda step=step: [step() for _ in range(repeats)]) for step in steps] for _ in range(given.rounds)]
        of = lambda number, what, reduce: reduce(turn[number][what] for turn in turns) / repeats
        ratios = {
            name: of(1, what, reduce) / of(0, what, reduce)
            for name, what, reduce in (("medians", "wall", statistics.median), ("shortest", "wall", min), ("processor", "cpu", min))
        }
        milliseconds = ", ".join(f"{kind} {1e3 * of(number, 'wall', statistics.median):.2f} ms" for number, kind in enumerate(kinds))
        print(f"{size} pixels, batch {given.batch}: multiply-adds {macs[1] / macs[0]:.2f} of ConvFirst's; medians {milliseconds}; ", end="")
        print("ConvNeXt's time over ConvFirst's: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), flush=True)


if __name__ == "__main__":
    main()
