"""The collectives of a program: how many bytes between how many chips."""

import dataclasses
import math
import re

from jaxvision.train.preflight.hlo.loops import executed
from jaxvision.train.preflight.hlo.reading import Module, Op, integers, with_fused

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "ragged-all-to-all", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: "all-reduce", …; bytes: of its result (of its operand for reduce-scatter) on one chip; group: chips that take part; times: a run."""

    kind: str
    bytes: float
    group: int
    times: int
    op: Op


def collectives(module: Module) -> list[Collective]:
    """All collectives that a run executes, those fused with other work included."""
    found = [(each, times) for op, times in executed(module) for each in collectives_of(module, op)]
    return [dataclasses.replace(each, times=times) for each, times in found]


def collectives_of(module: Module, op: Op) -> list[Collective]:
    """The collectives in one execution of an op: itself, or what it is fused with."""
    found = []
    for each in with_fused(module, (op,)):
        kind = each.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            home = module.computations[each.computation]
            read = sum(shape.bytes for name in each.operands if name in home for shape in home[name].shapes)
            written = sum(shape.bytes for shape in each.shapes)
            if each.opcode.endswith("-start") and kind != "all-reduce":  # its result names the operand again
                written -= read
            found.append(Collective(kind, max(read, written), _group(each), 1, op))
    return found


def _group(op: Op) -> int:
    """Chips that take part in one group of a collective."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", op.attributes):
        return len(integers(listed.group(1)))
    if shaped := re.search(r"replica_groups=\[(\d+),(\d+)\]", op.attributes):
        return int(shaped.group(2))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", op.attributes):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'(\w+)'", named.group(2)) if axis in axes)
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", op.attributes):
        return len(re.findall(r"\{", pairs.group(1))) + 1
    return 1
