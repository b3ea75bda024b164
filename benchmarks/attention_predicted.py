"""Attention's kernel table for a chip that need not be there: plain XLA and the kernels of this library, predicted cycles.

    python benchmarks/attention_predicted.py --topology=v5e:1x1 [--only=ViT-S]

As `--mode=bench`, but for the layout that the kernels' neighbours in a network give them: a call alone is handed its arguments with the batch as the
second axis from the last, and copies them, which inside a network nobody does. Copies are left out of both columns.
"""

import argparse

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxvision.kernels.attention.bench import BENCH
from jaxvision.train.bench import needs, passes
from jaxvision.train.preflight import hlo, price
from jaxvision.train.preflight.kernels import kernel_cycles
from jaxvision.train.preflight.topology import open_topology


def cycles(function, arguments, target) -> float:
    """Predicted cycles of a call, copies left out."""
    device = SingleDeviceSharding(target.devices[0])
    lowered = jax.jit(function, in_shardings=device, out_shardings=device).trace(*arguments).lower(lowering_platforms=("tpu",))
    module = hlo.parse(lowered.compile().as_text())
    priced = price.price(module, target.chip, kernel_cycles(module, target.name, None))
    return sum(each.seconds for each in priced if not each.op.name.startswith("copy")) * target.chip.clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    target = open_topology(args.topology)
    chip = target.chip
    print("| case | pass | MB | GFLOP | XLA, M | ours, M | ratio | floor, M |\n|---|---|---|---|---|---|---|---|", flush=True)
    for case in (case for case in BENCH if args.only in case.name):
        arguments = case.arguments(args.batch, jnp.dtype("bfloat16"))
        for what, build in passes(case):
            reference, ours = (cycles(build(name), arguments, target) / 1e6 for name in ("reference", None))
            moved, flops = needs(case, what, arguments, args.batch)
            floor = max(moved / chip.bandwidth, flops / chip.flops) * chip.clock / 1e6
            figures = f"{moved / 1e6:.0f} | {flops / 1e9:.1f} | {reference:.2f} | {ours:.2f} | {reference / ours:.1f} | {floor:.2f}"
            print(f"| {case.name} | {what} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
