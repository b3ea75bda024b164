"""What attention's forms take on an NVIDIA GPU that need not be there: memory beside operands and results, bytes moved, and their roofline.

    python benchmarks/attention_gpu_predicted.py [--only=Swin] [--batch=64] [--dtype=bfloat16]     needs pip install 'jaxvision[gpu]', and no GPU

"ours" is what the library takes by itself: cuDNN, Triton, or XLA's form. The compiler estimates no times for GPUs: a time is, kernel by kernel, the
bytes at the memory's rate or the operations at the peak of 16-bit numbers, whichever is longer, which no kernel is faster than. Triton's kernels are
counted as reading and writing each array whole, though two of the backward pass write a part of one, and with operations that padding is not among.
"""

import argparse

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxvision.kernels.attention.bench import BENCH
from jaxvision.train.bench import needs, passes
from jaxvision.train.preflight import hlo, price
from jaxvision.train.preflight.topology import COMPILER_OPTIONS, Topology, open_topology


def predicted(function, arguments, target: Topology) -> tuple[str, float, float, float]:
    """(whose code, MB of temporaries, MB moved, microseconds)."""
    device = SingleDeviceSharding(target.devices[0])
    lowered = jax.jit(function, in_shardings=device, out_shardings=device).trace(*arguments).lower(lowering_platforms=("cuda",))
    compiled = lowered.compile(COMPILER_OPTIONS["cuda"])
    text = compiled.as_text()
    total = price.total(price.price(hlo.parse(text), target.chip), target.chip)
    whose = "cuDNN" if "__cudnn$fmha" in text else "Triton" if "xla.gpu.triton" in text else "XLA"
    return whose, compiled.memory_analysis().temp_size_in_bytes / 1e6, total.bytes / 1e6, total.seconds * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--arms", default="reference,ours", help="any of reference, ours, triton")
    args = parser.parse_args()
    target = open_topology("h100:1")
    print("| case | pass | operands, results | code | temporaries | moved | at least |\n|---|---|---|---|---|---|---|", flush=True)
    for case in (case for case in BENCH if args.only in case.name):
        arguments = case.arguments(args.batch, jnp.dtype(args.dtype))
        for what, build in passes(case):
            least, _ = needs(case, what, arguments, args.batch)
            for arm in args.arms.split(","):
                whose, temporaries, moved, time = predicted(build(None if arm == "ours" else arm), arguments, target)
                figures = f"{whose} | {temporaries:.0f} MB | {moved:.0f} MB | {time:.0f} µs"
                print(f"| {case.name} | {what} | {least / 1e6:.0f} MB | {figures} |", flush=True)


if __name__ == "__main__":
    main()
