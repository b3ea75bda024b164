"""Reads compiled HLO text: which ops run, how often, what the compiler says they cost, their bytes and operations, and where they come from.

    module = parse(compiled.as_text())
    for op, times in executed(module):                  # loop bodies times their trips; inside of fusions not entered
        op.cycles, bytes_moved(module, op), flops(module, op), op.source, op.layer

XLA writes an estimate of cycles beside most ops that it compiles for a TPU. Calls of hand-written kernels, gathers, scatters, sorts and collectives
carry none (`op.cycles is None`): pricing them is `price.py`'s. For other platforms no op carries an estimate.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

# Parts of a traced path that name no module.
_WRAPPED = re.compile(r"(?:jvp|transpose|vmap|checkpoint|rematted_computation|remat)\((.*)\)")
_NO_MODULE = re.compile(r"(?:jit|pjit)\(.*\)|while|body|cond|closed_call|checkpoint|rematted_computation|branch_\d+_fun|[\w.]*_call")
BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2", "f8e4m3", "f8e4m3b11fnuz", "f8e5m2fnuz", "f8e4m3fnuz"), 1.0),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2.0),
    **dict.fromkeys(("f32", "s32", "u32"), 4.0),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8.0),
    **{"c128": 16.0, "s4": 0.5, "u4": 0.5, "token": 0.0, "opaque": 0.0},
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "ragged-all-to-all", "collective-broadcast")
# Names of values and views of them: no time, no traffic.
FREE = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "partition-id", "replica-id", "after-all", "opt-barrier", "domain")
PARTIAL = ("dynamic-slice", "slice", "gather", "dynamic-update-slice")
LITERAL = ("constant", "parameter")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_OPERAND = re.compile(r"([A-Za-z_][\w.\-]*)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: element type, dimensions, their order from minor to major, the tile that the layout pads to, whether it lies in on-chip memory."""

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    on_chip: bool = False

    @property
    def bytes(self) -> float:
        """As laid out: the minor dimensions are padded to whole tiles."""
        dims = [self.dims[axis] for axis in self.minor_to_major] or list(reversed(self.dims))
        for position, tile in enumerate(reversed(self.tile[-len(dims) :] if dims else ())):
            # A dimension below the second-minor tile's size is packed by sub-tiles, so only the minor one is padded for sure.
            if position == 0 or dims[position] > tile:
                dims[position] = math.ceil(dims[position] / tile) * tile
        return BYTES.get(self.dtype, 4.0) * math.prod(dims)


@dataclasses.dataclass(frozen=True)
class Op:
    """One instruction.

    Attributes:
      opcode: "fusion", "all-reduce", …; shapes: of its results; operands: names of ops of the same computation.
      attributes: the rest of the line as text; of a constant and a parameter, its value and number, "(8)".
      cycles: XLA's estimate for one execution; None where it gives none.
      calls: names of the computations it calls.
      op_name: the traced path, "jit(train_step)/jvp(ViT)/blocks_0/attn/qkv/dot_general".
      source: "file:line" of the innermost frame outside of installed packages; "" where unknown.
      computation: name of the one it stands in.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    cycles: int | None
    calls: tuple[str, ...]
    op_name: str
    source: str
    computation: str

    @property
    def layer(self) -> str:
        """The path of modules that the op belongs to, without transformations and the primitive: "ViT/blocks_0/attn/qkv"."""
        return layer_of(self.op_name)

    @property
    def backward(self) -> bool:
        return "transpose(" in self.op_name


@dataclasses.dataclass(frozen=True)
class Module:
    """computations: {name: {op name: Op}}, in the order of the text; entry: name of the one that runs."""

    computations: Mapping[str, Mapping[str, Op]]
    entry: str


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`."""
    frames = _frames(text)
    computations: dict[str, dict[str, Op]] = {}
    entry, name, current = "", "", None
    for line in text.splitlines():
        if line.startswith(" "):
            if current is not None and (op := _op(line, name, frames)) is not None:
                current[op.name] = op
        elif line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-<>]+) (?:\(|\{)", line)):
            name = head.group(2)
            current = computations.setdefault(name, {})
            entry = name if head.group(1) else entry
        elif line.startswith("}"):
            current = None
    return Module(computations, entry)


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


def bytes_moved(module: Module, op: Op, *, on_chip: bool = False) -> float:
    """Bytes that one execution reads from and writes to the chip's main memory, as laid out; `on_chip`: to any memory.

    Of an operand that a fusion only slices or gathers from, the part that it takes; of an update in place, the update.
    """
    if op.opcode in FREE or op.opcode.endswith("-done") or op.opcode in ("while", "conditional", "call"):
        return 0.0
    home = _home(module, op)
    counted = lambda shape: shape.bytes if on_chip or not shape.on_chip else 0.0
    if op.opcode.endswith("-start"):  # its result names the operand again, beside the copy
        return sum(map(counted, op.shapes[:2]))
    inside = module.computations[op.calls[0]] if op.opcode == "fusion" else {op.name: op}
    read = [_read(op, inside, number, home[name], counted) for number, name in enumerate(op.operands) if name in home]
    return sum(read) + _written(op, inside, home, counted)


def flops(module: Module, op: Op) -> float:
    """Operations of the convolutions and matrix products in one execution, two a multiply-add; those that a kernel's call declares for itself."""
    if op.opcode == "custom-call":
        declared = re.search(r'"flops":\s*"?(\d+)', op.attributes)
        return float(declared.group(1)) if declared else 0.0
    inner = itertools.chain.from_iterable(module.computations[name].values() for name in op.calls) if op.opcode == "fusion" else (op,)
    total = 0.0
    for each in inner:
        if each.opcode == "fusion":
            total += flops(module, each)
        elif each.opcode in ("convolution", "dot"):
            operands = [_home(module, each)[name].shapes[0] for name in each.operands]
            total += 2.0 * (_convolution if each.opcode == "convolution" else _dot)(each, *operands)
    return total


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
            home = _home(module, each)
            read = sum(shape.bytes for name in each.operands if name in home for shape in home[name].shapes)
            written = sum(shape.bytes for shape in each.shapes)
            if each.opcode.endswith("-start") and kind != "all-reduce":  # its result names the operand again
                written -= read
            found.append(Collective(kind, max(read, written), _group(each), 1, op))
    return found


def with_fused(module: Module, ops: Iterable[Op]) -> Iterator[Op]:
    """The ops, each followed by those that it is a fusion of."""
    for op in ops:
        yield op
        if op.opcode == "fusion":
            yield from with_fused(module, module.computations[op.calls[0]].values())


def layer_of(op_name: str) -> str:
    """The path of modules in a traced path: ViT/blocks_0/attn/qkv of jit(step)/transpose(jvp(ViT))/blocks_0/attn/qkv/dot_general."""
    parts = []
    for part in op_name.split("/")[:-1]:
        while found := _WRAPPED.fullmatch(part):
            part = found.group(1)
        if part and not _NO_MODULE.fullmatch(part):
            parts.append(part)
    # A method called from outside repeats the module's name: "ViT/ViT._encode/blocks_0".
    kept = [part for before, part in itertools.pairwise(["", *parts]) if part.split(".")[0] != before or "." not in part]
    return "/".join(kept)


# --- one line ---


def _op(line: str, computation: str, frames: Mapping[str, str]) -> Op | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    shape, rest = _split(line[head.end() :])
    opcode = re.match(r"\s*([a-z][\w\-]*)\(", rest)
    if not opcode:
        return None
    operands, attributes = _split(rest[opcode.end() - 1 :])
    estimate = re.search(r'"estimated_cycles":"(\d+)"', attributes)
    op_name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', attributes)
    return Op(
        name=head.group(1),
        opcode=opcode.group(1),
        shapes=_shapes(shape),
        operands=() if opcode.group(1) in LITERAL else tuple(_OPERAND.findall(re.sub(r"/\*.*?\*/", "", operands))),
        attributes=operands if opcode.group(1) in LITERAL else attributes,
        cycles=int(estimate.group(1)) if estimate else None,
        calls=_calls(attributes),
        op_name=op_name.group(1) if op_name else "",
        source=_source(attributes, frames),
        computation=computation,
    )


def _split(text: str) -> tuple[str, str]:
    """(a type or a parenthesis at the start of the text, the rest)."""
    if not text.startswith("("):
        head, _, rest = text.partition(" ")
        return head, rest
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return text[: found.end()], text[found.end() :]
    return text, ""


def _shapes(text: str) -> tuple[Shape, ...]:
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        order, _, tiling = layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiling)
        found.append(Shape(dtype, _integers(dims), _integers(order), _integers(tile.group(1)) if tile else (), "S(1)" in tiling))
    return tuple(found)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"-?\d+", text))


def _calls(attributes: str) -> tuple[str, ...]:
    branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
    single = re.findall(r"(?<![\w.])(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-<>]+)", attributes)
    return (*single, *(_NAME.findall(branches.group(1)) if branches else ()))


def called(op: Op, role: str) -> str:
    """Name of the computation that an op calls as its "body", "condition", …"""
    return re.search(rf"(?<![\w.]){role}=%?([\w.\-<>]+)", op.attributes).group(1)


def _constant(op: Op) -> str:
    """Type and value of a scalar constant, such as s32 8; empty for anything else."""
    if op.opcode != "constant" or op.shapes[0].dims:
        return ""
    return f"{op.shapes[0].dtype} {op.attributes.strip('()')}"


# --- where it comes from ---


def _frames(text: str) -> dict[str, str]:
    """{stack frame id: "file:line" of its innermost frame outside of installed packages}."""
    tables: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for line in text.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            current = tables.setdefault(line, {})
        elif current is not None and (row := re.match(r"(\d+) (.*)", line)):
            current[row.group(1)] = row.group(2)
        elif line.strip():
            current = None
    location, parent = {}, {}
    field = lambda row, name: re.search(rf"{name}=(\d+)", row).group(1)
    for number, row in tables.get("StackFrames", {}).items():
        place = tables["FileLocations"][field(row, "file_location_id")]
        file = tables["FileNames"][field(place, "file_name_id")].strip('"')
        # The text counts parents from 1 = none.
        location[number], parent[number] = (file, field(place, "line")), str(int(field(row, "parent_frame_id")) - 1)

    def own(number: str) -> str:
        # A kernel's own lines say less than those that call it.
        found = ""
        while number in location:
            file, line = location[number]
            if "/lib/python" not in file and not file.startswith("<"):
                found = found or f"{_short(file)}:{line}"
                if "jaxvision/kernels/" not in file:
                    return f"{_short(file)}:{line}"
            number = parent[number]
        return found

    return {number: own(number) for number in location}


def _source(attributes: str, frames: Mapping[str, str]) -> str:
    if frame := re.search(r"stack_frame_id=(\d+)", attributes):
        return frames.get(frame.group(1), "")
    found = re.search(r'source_file="([^"]+)" source_line=(\d+)', attributes)
    return f"{_short(found.group(1))}:{found.group(2)}" if found else ""


def _short(file: str) -> str:
    """From the package's own folder on: the same on every machine."""
    return file[file.rindex("jaxvision/") :] if "jaxvision/" in file else file


# --- what runs ---


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


def _home(module: Module, op: Op) -> Mapping[str, Op]:
    """The ops of the computation that an op stands in."""
    return module.computations[op.computation]


# --- what it moves and computes ---


def _read(op: Op, inside: Mapping[str, Op], number: int, operand: Op, counted: Callable[[Shape], float]) -> float:
    """Bytes of one operand that are read."""
    whole = sum(map(counted, operand.shapes))
    if op.opcode == "fusion":
        parameter = next((each for each in inside.values() if each.opcode == "parameter" and each.attributes == f"({number})"), None)
        users = [each for each in inside.values() if parameter is not None and parameter.name in each.operands]
        if users and all(_takes_part(each, parameter.name) for each in users):
            return min(whole, sum(_taken(each, inside, counted, operand) for each in users))
        return whole
    return min(whole, _taken(op, {}, counted, operand)) if _takes_part(op, operand.name) else whole


def _takes_part(user: Op, name: str) -> bool:
    """Whether a user of a value touches only a part of it: slices, gathers, and the target of an update in place."""
    return user.opcode in PARTIAL and user.operands[:1] == (name,) and name not in user.operands[1:]


def _taken(user: Op, inside: Mapping[str, Op], counted: Callable[[Shape], float], operand: Op) -> float:
    if user.opcode == "dynamic-update-slice":  # what is overwritten is not read
        return 0.0
    # A result inside of a fusion has no place of its own: it is counted where its operand lies.
    return sum(shape.bytes for shape in user.shapes) if any(map(counted, operand.shapes)) else 0.0


def _written(op: Op, inside: Mapping[str, Op], home: Mapping[str, Op], counted: Callable[[Shape], float]) -> float:
    whole = sum(map(counted, op.shapes))
    root = next(reversed(inside.values()), op)
    if root.opcode == "bitcast" and root.operands[0] in inside:
        root = inside[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and whole:
        update = (inside if root is not op else home).get(root.operands[1])
        return min(whole, sum(shape.bytes for shape in update.shapes)) if update else whole
    return whole


def _dot(op: Op, left: Shape, right: Shape) -> float:
    """Multiply-adds of a matrix product."""
    contracted = _integers(re.search(r"lhs_contracting_dims=\{([^}]*)\}", op.attributes).group(1))
    return math.prod(op.shapes[0].dims) * math.prod(left.dims[axis] for axis in contracted)


def _convolution(op: Op, left: Shape, right: Shape) -> float:
    """Multiply-adds of a convolution that fall on an element of the image, not on padding or on a hole of a dilated image.

    A TPU's compiler writes matrix products as convolutions too, their batch dimensions as dilated spatial ones.
    """
    image, kernel, result = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes).groups()
    output = op.shapes[0].dims
    total = output[result.index("b")] * output[result.index("f")] * right.dims[kernel.index("i")]
    window = re.search(r"window=\{([^}]*)\}", op.attributes)
    fields = dict(field.split("=") for field in window.group(1).split()) if window else {}
    for axis, size in enumerate(fields.get("size", "").split("x") if fields else ()):
        number = lambda name, default: fields[name].split("x")[axis] if name in fields else default
        low, _ = map(int, number("pad", "0_0").split("_"))
        total *= _hits(
            left.dims[image.index(str(axis))],
            output[result.index(str(axis))],
            int(size),
            stride=int(number("stride", 1)),
            low=low,
            holes=int(number("lhs_dilate", 1)),
            spread=int(number("rhs_dilate", 1)),
        )
    return total


@functools.lru_cache(maxsize=4096)
def _hits(size: int, outputs: int, taps: int, *, stride: int, low: int, holes: int, spread: int) -> int:
    """Pairs (output, tap) of one dimension that meet an element of the image."""
    place = np.arange(outputs)[:, None] * stride + np.arange(taps)[None] * spread - low
    return int(((place >= 0) & (place % holes == 0) & (place // holes < size)).sum())


def _group(op: Op) -> int:
    """Chips that take part in one group of a collective."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", op.attributes):
        return len(_integers(listed.group(1)))
    if shaped := re.search(r"replica_groups=\[(\d+),(\d+)\]", op.attributes):
        return int(shaped.group(2))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", op.attributes):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'(\w+)'", named.group(2)) if axis in axes)
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", op.attributes):
        return len(re.findall(r"\{", pairs.group(1))) + 1
    return 1
