"""Convolutions on CPU: this library's forms beside plain `lax` and eager PyTorch (channels last), forward and with both gradients, float32.

    python benchmarks/convolutions.py [--torch-python=/path/to/python/with/torch] [--only="depthwise 7x7,1x1"] [--rounds=9]

Each line is one interleaved run: one step of each in turn. Figures are the shortest milliseconds of processor time (all threads together), which
other work on the machine disturbs least, and the speed against each peer; above 1: this library is ahead. PyTorch runs in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# (batch, side, channels in, features, kernel rows, kernel columns, stride, dilation, groups)
CASES = {
    "depthwise 3x3": (8, 56, 64, 64, 3, 3, 1, 1, 64),
    "depthwise 3x3, stride 2": (8, 56, 64, 64, 3, 3, 2, 1, 64),
    "depthwise 3x3, dilation 2": (8, 56, 64, 64, 3, 3, 1, 2, 64),
    "depthwise 5x5": (8, 56, 64, 64, 5, 5, 1, 1, 64),
    "depthwise 7x7": (8, 56, 64, 64, 7, 7, 1, 1, 64),
    "depthwise 7x7, 384 channels": (8, 14, 384, 384, 7, 7, 1, 1, 384),
    "depthwise 1x11": (8, 56, 64, 64, 1, 11, 1, 1, 64),
    "depthwise 11x1": (8, 56, 64, 64, 11, 1, 1, 1, 64),
    "depthwise 11x11": (8, 56, 64, 64, 11, 11, 1, 1, 64),
    "depthwise 31x31": (2, 56, 64, 64, 31, 31, 1, 1, 64),
    "1x1": (8, 56, 64, 64, 1, 1, 1, 1, 1),
    "1x1, 1024 to 256": (8, 14, 1024, 256, 1, 1, 1, 1, 1),
    "1x1, stride 2": (8, 56, 256, 512, 1, 1, 2, 1, 1),
    "patches 4x4": (8, 224, 3, 96, 4, 4, 4, 1, 1),
    "3x3": (8, 56, 64, 64, 3, 3, 1, 1, 1),
    "3x3 in groups of 4": (8, 28, 128, 128, 3, 3, 1, 1, 32),
    "3x3 in groups of 8": (8, 28, 256, 256, 3, 3, 1, 1, 32),
    "3x3 in groups of 16": (8, 28, 128, 128, 3, 3, 1, 1, 8),
    "3x3 in groups of 32": (8, 14, 256, 256, 3, 3, 1, 1, 8),
}


def padding_of(kernel: tuple[int, int], stride: int, dilation: int) -> tuple[int, int]:
    return (0, 0) if stride == kernel[0] else tuple((k - 1) // 2 * dilation for k in kernel)


def jax_steps(case, implementation):
    """(forward, with gradients): functions that run one step to its end."""
    import jax
    import jax.numpy as jnp

    from jaxvision.nn.conv import convolve

    batch, side, channels, features, kh, kw, stride, dilation, groups = case
    padding = padding_of((kh, kw), stride, dilation)
    x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
    w = jax.random.normal(jax.random.key(1), (kh, kw, channels // groups, features))
    forward = jax.jit(lambda x, w: convolve(x, w, stride, padding, dilation, groups, implementation=implementation))
    dy = jnp.ones_like(forward(x, w)) * 1.5

    @jax.jit
    def gradients(x, w, dy):
        y, pull = jax.vjp(forward, x, w)
        return y, *pull(dy)

    return lambda: jax.block_until_ready(forward(x, w)), lambda: jax.block_until_ready(gradients(x, w, dy))


def torch_steps(case):
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    batch, side, channels, features, kh, kw, stride, dilation, groups = case
    padding = padding_of((kh, kw), stride, dilation)
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    w = torch.randn(features, channels // groups, kh, kw)
    run = lambda x, w: torch.nn.functional.conv2d(x, w, None, stride, padding, dilation, groups)
    dy = torch.ones_like(run(x, w)) * 1.5

    def forward():
        with torch.inference_mode():
            run(x, w)

    def gradients():
        a, b = x.detach().requires_grad_(), w.detach().requires_grad_()
        run(a, b).backward(dy)

    return forward, gradients


def processor_time(step) -> float:
    """Milliseconds of all threads."""
    start = time.process_time()
    step()
    return 1e3 * (time.process_time() - start)


def work() -> None:
    """The PyTorch process: a line with a case builds its steps, a line with 0 or 1 runs one; each is answered by a line."""
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, list):
            steps = torch_steps(request)
            for step in steps:
                step()
            print(0, flush=True)
        else:
            print(processor_time(steps[request]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="the interpreter of an environment with torch; without it the last columns stay empty")
    parser.add_argument("--only", default=",".join(name.replace(",", ";") for name in CASES), help="cases; a comma in a name is written ;")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="processors that all are bound to")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return work()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.threads])
    peer = None
    if flags.torch_python:
        command = [flags.torch_python, os.path.abspath(__file__), "--worker"]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(request) -> float:
        peer.stdin.write(json.dumps(request) + "\n")
        peer.stdin.flush()
        return float(peer.stdout.readline())

    against = "against `lax` | against PyTorch |"
    print(f"| convolution | forward, ms | {against} with gradients, ms | {against}\n" + "|---" * 7 + "|", flush=True)
    ratios = {"lax": ([], []), "torch": ([], [])}
    for name in (name.replace(";", ",") for name in flags.only.split(",")):
        ours, lax = jax_steps(CASES[name], None), jax_steps(CASES[name], "reference")
        if peer:
            ask(CASES[name])
        cells = []
        for which in range(2):
            runs = {"ours": lambda: processor_time(ours[which]), "lax": lambda: processor_time(lax[which])}
            if peer:
                runs["torch"] = lambda: ask(which)
            for run in runs.values():
                run()
            times = {key: [] for key in runs}
            for _ in range(flags.rounds):
                for key, run in runs.items():
                    times[key].append(run())
            best = {key: min(values) for key, values in times.items()}
            cells.append(f"{best['ours']:.1f}")
            for key in ("lax", "torch"):
                if key in best:
                    ratios[key][which].append(best[key] / best["ours"])
                cells.append(f"{best[key] / best['ours']:.2f}" if key in best else "")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    means = [f"{statistics.geometric_mean(ratios[key][which]):.2f}" if ratios[key][which] else "" for which in range(2) for key in ("lax", "torch")]
    print(f"| geometric mean | | {means[0]} | {means[1]} | | {means[2]} | {means[3]} |")
    if peer:
        peer.stdin.close()
        peer.wait()


if __name__ == "__main__":
    main()
