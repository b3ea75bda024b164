"""ESPCN on video frames on the CPU beside the same network in PyTorch, in one interleaved run: frames a second of 1920 x 1080 pixels.

    python benchmarks/espcn_frames.py --torch-python=/path/to/python/with/torch [--scales=2,3,4] [--rounds=7] [--srcnn]
    python benchmarks/espcn_frames.py --topology=v5e:1x1 [--scales=2,3,4] [--frames=1]
        predicted for one chip that need not be there, float32 and bfloat16, --frames a call; each line: frames/s by the compiler's estimates, and
        what bytes and operations would allow

Luma alone, float32, one frame a call, all processors of this process. Each line: frames/s of both by the median, and ours over theirs by the median,
by the shortest call, and by processor time. With --srcnn also SRCNN (9-5-5), which works at the large size.
"""

import argparse
import os
import statistics
import sys

from turns import Worker, timed, work

HEIGHT, WIDTH = 1080, 1920


def jax_step(name: str, scale: int):
    import jax
    import jax.numpy as jnp

    from jaxvision.models.registry import create_model

    model = create_model(f"{name}_x{scale}", num_classes=0)
    image = jax.random.uniform(jax.random.key(0), (1, HEIGHT // scale, WIDTH // scale, 1), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(1), image[:, :8, :8])
    call = jax.jit(model.apply).lower(variables, image).compile()
    return lambda: call(variables, image).block_until_ready()


def torch_step(name: str, scale: int):
    import torch
    from torch import nn

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layers = [nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()]
    layers += [nn.Conv2d(32, scale**2, 3, padding=1), nn.PixelShuffle(scale)]
    model = nn.Sequential(*layers).eval()
    image = torch.rand(1, 1, HEIGHT // scale, WIDTH // scale)

    def run(memory_format):
        net, frame = model.to(memory_format=memory_format), image.to(memory_format=memory_format)
        with torch.inference_mode():
            return net(frame)

    best = min((torch.channels_last, torch.contiguous_format), key=lambda layout: (run(layout), timed(lambda: run(layout))["wall"])[1])
    return lambda: run(best)


STEPS = {"jax": jax_step, "torch": torch_step}


def predicted(topology: str, name: str, scale: int, frames: int, dtype: str) -> tuple[float, float]:
    """(frames/s, the most that bytes and operations allow) of one chip, by the compiled program."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from jaxvision.models.registry import create_model
    from jaxvision.train.preflight import hlo, price
    from jaxvision.train.preflight.kernels import kernel_cycles
    from jaxvision.train.preflight.topology import open_topology

    opened = open_topology(topology)
    model = create_model(f"{name}_x{scale}", num_classes=0, dtype=dtype)
    image = jax.ShapeDtypeStruct((frames, HEIGHT // scale, WIDTH // scale, 1), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
    on = SingleDeviceSharding(opened.devices[0])
    forward = jax.jit(lambda variables, image: model.apply(variables, image), in_shardings=on, out_shardings=on)
    compiled = forward.trace(variables, image).lower(lowering_platforms=(opened.chip.platform,)).compile()
    module = hlo.parse(compiled.as_text())
    total = price.total(price.price(module, opened.chip, kernel_cycles(module, topology, None)), opened.chip)
    return frames / total.seconds, frames / max(total.bytes / opened.chip.bandwidth, total.flops / opened.chip.flops)


def worker(python: str, library: str, name: str, scale: int) -> Worker:
    """A process with one network ready."""
    found = Worker(python, __file__, library)
    found.build(name=name, scale=scale)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="the interpreter of an environment with torch; without it this library alone")
    parser.add_argument("--scales", default="3,2,4")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--srcnn", action="store_true")
    parser.add_argument("--topology", help="predict for one chip of this kind instead of timing here")
    parser.add_argument("--frames", type=int, default=1, help="a call, where it is predicted")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return work(STEPS[flags.worker])
    if flags.topology:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        print("| network | dtype | frames/s, predicted | at most |")
        for scale in map(int, flags.scales.split(",")):
            for name in ("espcn_y", "srcnn_955") if flags.srcnn else ("espcn_y",):
                for dtype in ("float32", "bfloat16"):
                    rate, most = predicted(flags.topology, name, scale, flags.frames, dtype)
                    print(f"| {name}_x{scale} | {dtype} | {rate:.0f} | {most:.0f} |", flush=True)
        return
    print("| scale | arm | frames/s | ESPCN's speed over it | by the shortest call | by processor time |")
    for scale in map(int, flags.scales.split(",")):
        arms = {"ESPCN": worker(sys.executable, "jax", "espcn_y", scale)}
        if flags.torch_python:
            arms["ESPCN, PyTorch"] = worker(flags.torch_python, "torch", "espcn_y", scale)
        if flags.srcnn:
            arms["SRCNN"] = worker(sys.executable, "jax", "srcnn_955", scale)
        times = {arm: [] for arm in arms}
        for _ in range(flags.rounds):
            for arm, each in arms.items():
                times[arm].append(each.step())
        kinds = ((statistics.median, "wall"), (min, "wall"), (min, "cpu"))
        figure = {arm: [f([t[kind] for t in each]) for f, kind in kinds] for arm, each in times.items()}
        for arm, values in figure.items():
            ratios = [theirs / ours for theirs, ours in zip(values, figure["ESPCN"])]
            print(f"| {scale} | {arm} | {1 / values[0]:.2f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)
        for each in arms.values():
            each.close()


if __name__ == "__main__":
    main()
