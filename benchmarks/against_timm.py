"""Images/s on CPU beside timm on eager PyTorch: inference and training step (forward and backward, no optimizer), float32.

    python benchmarks/against_timm.py --torch-python=/path/to/python/with/timm [--models=resnet50,swin_tiny_patch4_window7_224] [--rounds=5]

Batch 4 at 224x224 and five rounds unless told otherwise; most of the time goes into compiling.

PyTorch lives in an environment of its own, so each library runs in a process of its own, on the same `--threads` processors, and the two take turns:
one step here, one step there, and so on, which is one interleaved run. PyTorch gets the memory format (plain or channels last) that is faster for the
model. Both processes keep the memory that they free (`jaxvision/host_memory.py`), as `python -m jaxvision.main` does on CPUs.

Printed: medians over the rounds, in images/s, and their ratio (above 1: this library is ahead); the ratio of the shortest wall times and of the
shortest processor times (of all threads), which other work on the machine disturbs less; and geometric means.
"""

import argparse
import os
import statistics
import sys
import time

from turns import Worker, timed, work

MODELS = (
    "vit_small_patch16_224",
    "resnet50",
    "convnext_tiny",
    "poolformer_s12",
    "mixer_b16_224",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
)
MODES = ("inference", "train")


def jax_step(name: str, mode: str, batch: int, size: int):
    """A function that runs one step to its end."""
    import jax
    import jax.numpy as jnp

    import jaxvision

    model = jaxvision.create_model(name, image_size=(size, size))
    image = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    label = jnp.arange(batch) % 1000
    variables = jax.jit(lambda key: model.init(key, image[:1], train=False))(jax.random.key(1))
    if mode == "inference":
        forward = jax.jit(lambda variables, image: model.apply(variables, image, train=False))
        return lambda: jax.block_until_ready(forward(variables, image))

    @jax.jit
    def step(variables, image, label, key):
        def loss(params):
            given = {**variables, "params": params}
            logits, updated = model.apply(given, image, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1).mean(), updated

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return lambda: jax.block_until_ready(step(variables, image, label, jax.random.key(2)))


def torch_step(name: str, mode: str, batch: int, size: int):
    """The same of timm's model, in the memory format that is faster."""
    import timm
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    kwargs = {} if size == 224 else {"img_size": size}
    label = torch.arange(batch) % 1000

    def build(memory_format):
        model = timm.create_model(name, **kwargs).to(memory_format=memory_format).train(mode == "train")
        image = torch.randn(batch, 3, size, size).to(memory_format=memory_format)

        def inference():
            with torch.inference_mode():
                model(image)

        def train():
            model.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(image), label).backward()

        return inference if mode == "inference" else train

    steps = [build(torch.channels_last), build(torch.contiguous_format)]
    seconds = [min(timed(step)["cpu"] for _ in range(3)) for step in steps]
    return steps[seconds.index(min(seconds))]


STEPS = {"jax": jax_step, "torch": torch_step}


def compare(workers: dict[str, Worker], name: str, mode: str, batch: int, size: int, rounds: int) -> dict[str, float]:
    """Images/s of both, and the ratios ours / theirs in speed."""
    times = {library: [] for library in workers}
    for worker in workers.values():
        worker.build(name=name, mode=mode, batch=batch, size=size)
    for _ in range(rounds):
        for library, worker in workers.items():
            times[library].append(worker.step())
    wall = {library: [t["wall"] for t in times[library]] for library in workers}
    cpu = {library: min(t["cpu"] for t in times[library]) for library in workers}
    speed = {library: batch / statistics.median(wall[library]) for library in workers}
    return {
        **speed,
        "ratio": speed["jax"] / speed["torch"],
        "ratio of minima": min(wall["torch"]) / min(wall["jax"]),
        "ratio of processor time": cpu["torch"] / cpu["jax"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="the interpreter of an environment with torch and timm")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--modes", default=",".join(MODES), help="comma-separated")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="processors that both libraries are bound to")
    parser.add_argument("--worker", choices=STEPS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return work(STEPS[flags.worker])
    if not flags.torch_python:
        parser.error("--torch-python is needed")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.threads])
    workers = {library: Worker(python, __file__, library) for library, python in (("jax", sys.executable), ("torch", flags.torch_python))}
    started = time.perf_counter()
    print(f"{flags.threads} threads, batch {flags.batch}, {flags.size}x{flags.size}, images/s: medians of {flags.rounds} rounds\n")
    ratios = ("ratio", "ratio of minima", "ratio of processor time")
    print("| model | mode | jaxvision | timm, eager | " + " | ".join(ratios) + " |\n|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for name in flags.models.split(","):
        for mode in flags.modes.split(","):
            row = compare(workers, name, mode, flags.batch, flags.size, flags.rounds)
            rows.append((mode, row))
            print(f"| {name} | {mode} | {row['jax']:.2f} | {row['torch']:.2f} | " + " | ".join(f"{row[r]:.2f}" for r in ratios) + " |", flush=True)
    for mode in flags.modes.split(","):
        means = [statistics.geometric_mean(row[r] for m, row in rows if m == mode) for r in ratios]
        print(f"| geometric mean | {mode} | | | " + " | ".join(f"{m:.2f}" for m in means) + " |", flush=True)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes, compilation included")
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
