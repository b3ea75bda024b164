"""Reading compiled HLO text into computations of ops: shapes as laid out, estimates, traced paths and source lines."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping

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


def called(op: Op, role: str) -> str:
    """Name of the computation that an op calls as its "body", "condition", …"""
    return re.search(rf"(?<![\w.]){role}=%?([\w.\-<>]+)", op.attributes).group(1)


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
        found.append(Shape(dtype, integers(dims), integers(order), integers(tile.group(1)) if tile else (), "S(1)" in tiling))
    return tuple(found)


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"-?\d+", text))


def _calls(attributes: str) -> tuple[str, ...]:
    branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
    single = re.findall(r"(?<![\w.])(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-<>]+)", attributes)
    return (*single, *(_NAME.findall(branches.group(1)) if branches else ()))


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
