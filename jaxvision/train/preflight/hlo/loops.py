"""Which ops a run of a program executes, and how often: bodies of loops times their trips."""

import re
from collections.abc import Iterator

from jaxvision.train.preflight.hlo.reading import Module, Op, called, with_fused


def executed(module: Module, computation: str | None = None) -> Iterator[tuple[Op, int]]:
    """(op, how often a run executes it): the entry, bodies of loops times their trips, called computations; of a conditional the dearest branch.

    A loop of unknown length counts once. `computation`: start there instead of at the entry.
    """
    yield from _executed(module, computation or module.entry, 1)


def trips(module: Module, loop: Op) -> int | None:
    """How often a `while` runs: what the compiler noted, or the largest constant that its condition compares with; None where neither is there."""
    if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(noted.group(1))
    condition = module.computations[called(loop, "condition")]
    bounds = [int(found.group(1)) for op in with_fused(module, condition.values()) if (found := re.match(r"s32 (\d+)$", _constant(op)))]
    return max(bounds, default=None)


def cycles(module: Module, computation: str | None = None) -> int:
    """Sum of XLA's estimates of a run, loops times trips; ops without an estimate add nothing."""
    return sum(times * (op.cycles or 0) for op, times in _executed(module, computation or module.entry, 1))


def _executed(module: Module, name: str, times: int) -> Iterator[tuple[Op, int]]:
    for op in module.computations[name].values():
        yield op, times
        if op.opcode == "while":
            yield from _executed(module, called(op, "body"), times * (trips(module, op) or 1))
        elif op.opcode == "conditional":
            yield from _executed(module, max(op.calls, key=lambda branch: cycles(module, branch)), times)
        elif op.opcode in ("call", "async-start"):
            for each in op.calls:
                yield from _executed(module, each, times)


def _constant(op: Op) -> str:
    """Type and value of a scalar constant, such as s32 8; empty for anything else."""
    if op.opcode != "constant" or op.shapes[0].dims:
        return ""
    return f"{op.shapes[0].dtype} {op.attributes.strip('()')}"
