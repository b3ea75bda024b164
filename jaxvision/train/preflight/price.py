"""What a compiled program would take on a chip: the compiler's own estimates, and a price by hand for what it gives none.

    estimated by the compiler                cycles over the clock, a loop's body times its trips
    of whose code there is a listing         the larger of bytes over the memory's rate and bundles (grouped.py, schedules.py), not the estimate
    kernels written by hand                  the larger of bytes over the memory's rate, declared operations over the peak, and bundles (kernels.py)
    gathers, scatters, sorts                 the larger of bytes over the memory's rate and cycles an element, below
    other ops without an estimate            bytes over the memory's rate, operations over the peak, whichever is longer
    collectives                              bytes that a chip of a ring sends over half of its links' rate; no overlap is assumed
    copies that run beside other work        nothing of their own; a step takes at least all its bytes over the memory's rate
    loops that end by what they compute      one trip; listed as without a price, with the bytes of that one
    calls of code that nothing is known of   no price; they are listed, and a share of the peak is only quoted while they move little

A prediction is the compiler's and this file's, not a measurement. On GPUs the compiler estimates nothing, so it is the roofline: a lower bound.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from jaxvision.train.preflight import hlo
from jaxvision.train.preflight.chips import Chip

# Above this share of a step's bytes in ops without any price, no share of the peak is quoted.
UNPRICED_LIMIT = 0.05
# Calls that only name or reserve memory.
FREE_CALLS = (
    "AllocateBuffer",
    "ConcatBitcast",
    "GatherScatterIndicesBitpacked",
    "Sharding",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
    "AssumeGatherIndicesInBound",
)
KERNEL_CALLS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "triton_kernel_call", "mosaic_gpu", "__cublas$", "__cudnn$")
OPAQUE = ("fft", "cholesky", "triangular-solve", "infeed", "outfeed", "send", "recv", "rng")
# Cycles on a TPU, from the bundles of the loop bodies that libtpu compiles for v5e: a gather of one slice takes about 4 + 2 for each 512 bytes
# (10 for 384 float32, 4.7 for one), a scattered update 16, and a stage of a bitonic sort 4 for 1024 elements.
GATHER, GATHER_512, SCATTER, SORT = 4, 2, 16, 4


@dataclasses.dataclass(frozen=True)
class Priced:
    """One op of a program with what all its executions in a run cost.

    Attributes:
      seconds: of all executions; 0 for what runs beside other work.
      how: "compiler" (its estimate), "listing" (of its code), "hand", "link", "beside" or "none".
      bytes: moved to and from the main memory; flops: of matrix products and convolutions.
    """

    op: hlo.Op
    times: int
    seconds: float
    how: str
    bytes: float
    flops: float

    @property
    def augmentation(self) -> bool:
        """Whether it belongs to what is done to a batch before the network sees it."""
        return self.op.layer.split("/")[0] == "prepare"


def price(module: hlo.Module, chip: Chip, listed: Mapping[str, float] | None = None) -> list[Priced]:
    """Every op that takes time or moves bytes, in the order of the program.

    Args:
      listed: {op name: cycles of one call} by the listings of bundles: of hand-written kernels, or of the compiler's own code too.
    """
    listed = listed or {}
    found = []
    for op, times in hlo.executed(module):
        how = _how(module, op)
        if how is None:
            continue
        if how == "compiler" and op.name in listed:
            how = "listing"
        moved, flops = _bytes(module, op), hlo.flops(module, op)
        seconds = {
            "compiler": lambda: op.cycles / chip.clock,
            "listing": lambda: max(moved / chip.bandwidth, listed[op.name] / chip.clock),
            "hand": lambda: max(moved / chip.bandwidth, flops / chip.flops, max(listed.get(op.name, 0.0), _cycles(module, op, chip)) / chip.clock),
            "link": lambda: sum(_ring(each) / chip.link for each in hlo.collectives_of(module, op)),
            "beside": lambda: 0.0,
            "none": lambda: 0.0,
        }[how]()
        found.append(Priced(op, times, times * seconds, how, times * moved, times * flops))
    return found


def _bytes(module: hlo.Module, op: hlo.Op) -> float:
    """What an op moves; of a loop of unknown length, what its body moves in one trip, which its ops are counted for beside."""
    if op.opcode != "while":
        return hlo.bytes_moved(module, op)
    return sum(times * hlo.bytes_moved(module, each) for each, times in hlo.executed(module, hlo.called(op, "body")))


def _how(module: hlo.Module, op: hlo.Op) -> str | None:
    if hlo.collectives_of(module, op):
        return "link"
    if op.opcode == "while":
        return "none" if hlo.trips(module, op) is None else None
    if op.opcode in hlo.FREE or op.opcode.endswith(("-done", "-update")) or op.opcode in ("conditional", "call"):
        return None
    if op.cycles is not None:
        return "compiler"
    if op.opcode.endswith("-start"):
        return "beside"
    if op.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', op.attributes)
        name = target.group(1) if target else ""
        return None if name in FREE_CALLS else "hand" if name.startswith(KERNEL_CALLS) else "none"
    return "none" if op.opcode in OPAQUE else "hand"


def _ring(collective: hlo.Collective) -> float:
    """Bytes that each chip of a ring sends."""
    share = (collective.group - 1) / max(collective.group, 1)
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(collective.kind, share) * collective.bytes


def _cycles(module: hlo.Module, op: hlo.Op, chip: Chip) -> float:
    """Cycles of gathers, scatters and sorts on a TPU; 0 for everything else."""
    if chip.platform != "tpu":
        return 0.0
    total = 0.0
    for each in hlo.with_fused(module, (op,)):
        home = module.computations[each.computation]
        if each.opcode == "gather":
            slice_sizes = [int(n) for n in re.search(r"slice_sizes=\{([\d,]*)\}", each.attributes).group(1).split(",") if n]
            elements = math.prod(slice_sizes)
            size = elements * hlo.BYTES.get(each.shapes[0].dtype, 4.0)
            total += math.prod(each.shapes[0].dims) / elements * (GATHER + GATHER_512 * math.ceil(size / 512))
        elif each.opcode == "scatter":
            indices = home[each.operands[len(each.operands) // 2]].shapes[0].dims
            vector = int(re.search(r"index_vector_dim=(\d+)", each.attributes).group(1))
            total += SCATTER * math.prod(n for axis, n in enumerate(indices) if axis != vector)
        elif each.opcode == "sort":
            length = each.shapes[0].dims[int(re.search(r"dimensions=\{(\d+)\}", each.attributes).group(1))]
            stages = math.ceil(math.log2(max(length, 2)))
            total += SORT * math.prod(each.shapes[0].dims) / 1024 * stages * (stages + 1) / 2
    return total


@dataclasses.dataclass(frozen=True)
class Sum:
    """A program's figures on one chip.

    Attributes:
      seconds: of all; augmentation_seconds: of it, what prepares the batch.
      by: {"compiler", "listing", "hand", "link": seconds}.
      flops: of network and optimizer; augmentation_flops: of the rest.
      bytes: to and from the main memory; unpriced_share: of them in ops without any price.
      memory_bound: whether `seconds` is the time of the bytes alone, which the ops' own prices do not reach.
    """

    seconds: float
    augmentation_seconds: float
    by: dict[str, float]
    flops: float
    augmentation_flops: float
    bytes: float
    unpriced_share: float
    memory_bound: bool

    def share_of_peak(self, chip: Chip, *, augmentation: bool) -> float | None:
        """The time that the network's operations would take at the peak over the predicted time; None where too much has no price."""
        seconds = self.seconds if augmentation else self.seconds - self.augmentation_seconds
        if self.unpriced_share > UNPRICED_LIMIT or seconds <= 0:
            return None
        return self.flops / chip.flops / seconds


def total(priced: list[Priced], chip: Chip) -> Sum:
    by = {how: sum(each.seconds for each in priced if each.how == how) for how in ("compiler", "listing", "hand", "link")}
    seconds, moved = sum(by.values()), sum(each.bytes for each in priced if each.op.opcode != "while")
    of = lambda field, wanted: sum(getattr(each, field) for each in priced if each.augmentation == wanted)
    floor = moved / chip.bandwidth
    unpriced = sum(each.bytes for each in priced if each.how == "none") / max(moved, 1.0)
    return Sum(max(seconds, floor), of("seconds", True), by, of("flops", False), of("flops", True), moved, unpriced, memory_bound=floor > seconds)


@dataclasses.dataclass(frozen=True)
class Layer:
    """What the ops of one layer add up to, the blocks of a stage together.

    Attributes:
      name: "ViT/blocks_*/attn/qkv (backward)"; an op that belongs to no module is its own, by its opcode.
      ops: how many are executed; seconds, bytes and flops: of all of them.
    """

    name: str
    ops: int
    seconds: float
    bytes: float
    flops: float


def by_layer(priced: list[Priced]) -> list[Layer]:
    """The costliest first."""
    found: dict[str, Layer] = {}
    for each in priced:
        name = layer_name(each.op)
        before = found.get(name, Layer(name, 0, 0.0, 0.0, 0.0))
        sums = (before.seconds + each.seconds, before.bytes + each.bytes, before.flops + each.flops)
        found[name] = Layer(name, before.ops + each.times, *sums)
    return sorted(found.values(), key=lambda layer: -layer.seconds)


def layer_name(op: hlo.Op) -> str:
    layer = re.sub(r"((?:^|/)(?:blocks?|layers?|encoderblock))_?\d+(?=/|$)", r"\1_*", op.layer)
    return (layer or f"({op.opcode})") + (" (backward)" if op.backward else "")
