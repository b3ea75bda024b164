"""`--mode=bench`: each op of jaxvision/kernels with the shapes that models use, plain XLA ("reference") beside what this library runs ("ours").

On the device at hand both arms are timed in turn in one process. With a topology both are compiled for it, and what the compiler's listings of their
code come to stands in for the time, kernels by hand and its own code alike (on GPUs, of which there are none, a roofline). The floor is what the
arithmetic at the peak or the bytes at the memory's rate would take, whichever is longer: of the chip's data sheet, or, on a CPU, of a matrix product
and a copy that are timed beside.
"""

import dataclasses
import importlib
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxvision import kernels
from jaxvision.errors import ConfigError, nearest
from jaxvision.kernels.cases import Case
from jaxvision.train.preflight import hlo, price, schedules
from jaxvision.train.preflight.chips import CHIPS, Chip
from jaxvision.train.preflight.mode import cache_folder
from jaxvision.train.preflight.programs import too_large
from jaxvision.train.preflight.topology import COMPILER_OPTIONS, Topology, open_topology

BATCH = {"cpu": 4}  # of other platforms
BATCH_ELSE, DTYPE = 128, {"cpu": "float32"}
# What devices call themselves -> a chip of the table.
DEVICES = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e", "TPU v6e": "v6e"}
HEAD = ("op", "case", "pass", "MB", "GFLOP", "reference", "ours", "ratio", "floor", "ours / floor")
SAME = "same"
ARMS = ("reference", "ours")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line: an op's case, forward or with gradients.

    Attributes:
      bytes: that arguments and results have; flops: that it needs, two a multiply-add.
      reference, ours: seconds, or predicted cycles; equal where both are the same program; None for one that does not fit the memory.
      floor: of the same unit; None where the peak is not known.
      remark: what the figures do not hold.
    """

    op: str
    case: str
    what: str
    bytes: float
    flops: float
    reference: float | None
    ours: float | None
    floor: float | None
    same: bool
    remark: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is; None where one of the two does not fit."""
        return None if self.reference is None or self.ours is None else self.reference / self.ours


def bench(config: Any, *, topology: str | None = None, report: Callable[[str], None] = print) -> list[Row]:
    """Prints the table of config.bench and returns its rows.

    Args:
      topology: compile for it and predict ("v5e:1x1"; one chip of it is used), instead of timing the device at hand.

    Raises ConfigError for an op that declares no benchmark, and for a topology that cannot be built.
    """
    target = open_topology(topology) if topology is not None else None
    platform = target.chip.platform if target else jax.default_backend()
    batch = config.bench.batch or BATCH.get(platform, BATCH_ELSE)
    dtype = jnp.dtype(config.bench.dtype or DTYPE.get(platform, "bfloat16"))
    peak = target.chip if target else device_peak(report)
    where = f"predicted for {target.chip.name}, cycles" if target else f"measured on {jax.devices()[0].device_kind}, medians of {config.bench.rounds}"
    report(f"kernels, {where}; batch {batch}, {dtype.name}; ratio above 1: ours is faster")
    rows = []
    for op in ops_chosen(config.bench.ops):
        for case in cases_of(op):
            for what, build in passes(case):
                arguments = case.arguments(batch, dtype)
                reference, ours = build("reference"), build(None)
                moved, flops = needs(case, what, arguments, batch)
                if target:
                    first, second, same, remark = predict(reference, ours, arguments, target, cache_folder(config))
                else:
                    first, second, same, remark = measure(reference, ours, arguments, config.bench.rounds)
                floor = None if peak is None else max(flops / peak.flops, moved / peak.bandwidth) * (peak.clock if target else 1.0)
                rows.append(Row(op, case.name, what, moved, flops, first, second, floor, same, remark))
                report(line(rows[-1], predicted=target is not None, header=len(rows) == 1))
    return rows


def ops_with_cases() -> tuple[str, ...]:
    """Names of the ops that declare a benchmark."""
    return tuple(sorted(path.parent.name for root in kernels.__path__ for path in pathlib.Path(root).glob("*/bench.py")))


def ops_chosen(names: Sequence[str]) -> tuple[str, ...]:
    known = ops_with_cases()
    for name in names:
        if name not in known:
            raise ConfigError(f"config key 'bench.ops' has {name!r}, which declares no benchmark; {nearest(name, known)}")
    return tuple(names) or known


def cases_of(op: str) -> tuple[Case, ...]:
    return importlib.import_module(f"jaxvision.kernels.{op}.bench").BENCH


def passes(case: Case) -> Iterator[tuple[str, Callable]]:
    """("forward", implementation -> function of the case's arrays), and "gradients", which computes both passes."""
    yield "forward", lambda implementation: lambda *arrays: case.call(*arrays, implementation=implementation)

    def gradients(implementation):
        def run(*arrays):
            moving = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]

            def of_moving(*chosen):
                filled = list(arrays)
                for i, value in zip(moving, chosen):
                    filled[i] = value
                return case.call(*filled, implementation=implementation)

            value, pull = jax.vjp(of_moving, *(arrays[i] for i in moving))
            # A cotangent that the compiler cannot fold away: the result itself.
            return value, pull(value)

        return run

    if case.gradients:
        yield "gradients", gradients


def needs(case: Case, what: str, arguments: Sequence[jax.ShapeDtypeStruct], batch: int) -> tuple[float, float]:
    """(bytes of arguments and results, operations) of one call; with gradients three times the forward pass's operations."""
    reference = lambda *arrays: case.call(*arrays, implementation="reference")
    size = lambda tree: float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))
    results = jax.eval_shape(reference, *arguments)
    flops = case.flops(batch) if case.flops is not None else counted(reference, arguments)
    forward = size(arguments) + size(results)
    # The cotangent is read, and so are the arguments again; their gradients are written.
    return (forward, flops) if what == "forward" else (2 * forward + size(arguments), 3 * flops)


def counted(function: Callable, arguments: Sequence[jax.ShapeDtypeStruct]) -> float:
    """Operations of the convolutions and matrix products that a function's plain form comes to, read from its program for the CPU."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cpu",))
    module = hlo.parse(lowered.compiler_ir("hlo").as_hlo_text())
    return sum(times * hlo.flops(module, op) for op, times in hlo.executed(module))


def measure(
    reference: Callable, ours: Callable, arguments: Sequence[jax.ShapeDtypeStruct], rounds: int
) -> tuple[float | None, float | None, bool, str]:
    """(seconds of the reference, of ours, whether they are one program, what did not fit): medians of `rounds`, the two in turn."""
    keys = jax.random.split(jax.random.key(0), len(arguments))
    arrays = [_random(key, kind) for key, kind in zip(keys, arguments)]
    programs = [jax.jit(function).lower(*arrays) for function in (reference, ours)]
    same = _text(programs[0]) == _text(programs[1])
    remarks: list[str] = []
    compiled = [_fitting(name, program.compile, remarks) for name, program in zip(ARMS, programs)]
    spent: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for number, program in enumerate(compiled):
            if program is None:
                continue
            began = time.perf_counter()
            if _fitting(ARMS[number], lambda program=program: jax.block_until_ready(program(*arrays)), remarks) is None:
                compiled[number], spent[number] = None, []
            elif turn:  # the first one warms up
                spent[number].append(time.perf_counter() - began)
    first, second = (statistics.median(times) if times else None for times in spent)
    return first, second, same, "; ".join(remarks)


def _fitting(name: str, run: Callable, remarks: list[str]) -> Any:
    """What `run` returns; None, and a remark, where the device's memory does not hold the program."""
    try:
        return run()
    except jax.errors.JaxRuntimeError as error:
        sizes = too_large(str(error), math.inf)
        if sizes is None and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        known = sizes is not None and math.isfinite(sizes["total_bytes"])
        remarks.append(f"{name} does not fit" + (f": {sizes['total_bytes'] / 2**30:.1f} of {sizes['memory_bytes'] / 2**30:.1f} GiB" if known else ""))
        return None


def _random(key: jax.Array, kind: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(kind.dtype, jnp.floating):
        return jax.random.normal(key, kind.shape, jnp.float32).astype(kind.dtype)
    return jnp.zeros(kind.shape, kind.dtype)


def predict(
    reference: Callable, ours: Callable, arguments: Sequence[jax.ShapeDtypeStruct], target: Topology, cache: pathlib.Path | None
) -> tuple[float | None, float | None, bool, str]:
    """(predicted cycles of the reference, of ours, whether they are one program, a remark); `cache` keeps what was compiled."""
    device = SingleDeviceSharding(target.devices[0])
    lowered = [
        jax.jit(function, in_shardings=device, out_shardings=device).trace(*arguments).lower(lowering_platforms=(target.chip.platform,))
        for function in (reference, ours)
    ]
    same = _text(lowered[0]) == _text(lowered[1])
    found, remarks = [], []
    for name, function, program in zip(ARMS, (reference, ours), lowered[:1] if same else lowered):
        if target.chip.platform == "tpu":
            run = lambda function=function: _scheduled(function, arguments, target, cache)
        else:
            run = lambda program=program: (program.compile(COMPILER_OPTIONS[target.chip.platform]).as_text(), {})
        if (compiled := _fitting(name, run, remarks)) is None:
            found.append(None)
            continue
        text, listed = compiled
        sums = price.total(price.price(hlo.parse(text), target.chip, listed), target.chip)
        found.append(sums.seconds * target.chip.clock)
        if sums.unpriced_share > price.UNPRICED_LIMIT:
            remarks.append(f"{name}: {sums.unpriced_share:.0%} of the bytes without a price")
    return found[0], found[-1], same, "; ".join(remarks)


def _scheduled(
    function: Callable, arguments: Sequence[jax.ShapeDtypeStruct], target: Topology, cache: pathlib.Path | None
) -> tuple[str, dict[str, float]]:
    """(text of the compiled program, cycles of its ops by their listings). Raises JaxRuntimeError where the compiler refuses it."""
    found = schedules.schedule(jax.export.export(jax.jit(function), platforms=("tpu",))(*arguments), target.name, cache)
    if found.error:
        raise jax.errors.JaxRuntimeError(found.error)
    return found.text, found.cycles


def _text(lowered: Any) -> str:
    """A program without the name of the function that it was traced from."""
    head, _, body = lowered.as_text().partition("\n")
    del head
    return body


def device_peak(report: Callable[[str], None]) -> Chip | None:
    """What the device at hand can do: by the table, or on a CPU by a matrix product and a copy timed now; None for a device that is not known."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        flops, bandwidth = _cpu_peak()
        report(f"this CPU: {flops / 1e9:.0f} GFLOP/s in a float32 matrix product, {bandwidth / 1e9:.1f} GB/s in a copy")
        return Chip("cpu", "cpu", flops, bandwidth, 0.0, 1.0, 0.0)
    name = DEVICES.get(device.device_kind, "h100" if "H100" in device.device_kind else "")
    if name not in CHIPS:
        report(f"no peak is known of {device.device_kind}: the column 'floor' stays empty")
        return None
    return CHIPS[name]


def _cpu_peak(side: int = 1024, copied: int = 2**25) -> tuple[float, float]:
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    square, long = jnp.ones((side, side)), jnp.ones((copied // 4,))
    return 2 * side**3 / _shortest(product, square, square), 2 * copied / _shortest(copy, long)


def _shortest(function: Callable, *arrays: jax.Array) -> float:
    spent = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(function(*arrays))
        spent.append(time.perf_counter() - began)
    return min(spent)


def line(row: Row, *, predicted: bool, header: bool = False) -> str:
    """One line of the table, under its head if asked."""
    figure = lambda value: "-" if value is None else f"{value:,.0f}" if predicted else f"{1000 * value:.3f} ms"
    cells = (
        row.op,
        row.case,
        row.what,
        f"{row.bytes / 1e6:.2f}",
        f"{row.flops / 1e9:.3f}",
        figure(row.reference),
        figure(row.ours),
        SAME if row.same else "-" if row.ratio is None else f"{row.ratio:.2f}",
        figure(row.floor),
        "-" if not row.floor or row.ours is None else f"{row.ours / row.floor:.1f}",
    )
    widths = (15, 30, 9, 8, 8, 13, 13, 6, 12, 12)
    text = lambda values: "  ".join(value.ljust(width) for value, width in zip(values, widths)).rstrip()
    shown = text(cells) + (f"  ({row.remark})" if row.remark else "")
    return f"{text(HEAD)}\n{shown}" if header else shown
