"""What an op moves to and from the main memory, and how many operations its matrix products are."""

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from jaxvision.train.preflight.hlo.reading import Module, Op, Shape, integers

# Names of values and views of them: no time, no traffic.
FREE = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "partition-id", "replica-id", "after-all", "opt-barrier", "domain")
PARTIAL = ("dynamic-slice", "slice", "gather", "dynamic-update-slice")


def bytes_moved(module: Module, op: Op, *, on_chip: bool = False) -> float:
    """Bytes that one execution reads from and writes to the chip's main memory, as laid out; `on_chip`: to any memory.

    Of an operand that a fusion only slices or gathers from, the part that it takes; of an update in place, the update.
    """
    if op.opcode in FREE or op.opcode.endswith("-done") or op.opcode in ("while", "conditional", "call"):
        return 0.0
    home = module.computations[op.computation]
    counted = lambda shape: shape.bytes if on_chip or not shape.on_chip else 0.0
    if op.opcode.endswith("-start"):  # its result names the operand again, beside the copy
        return sum(map(counted, op.shapes[:2]))
    inside = module.computations[op.calls[0]] if op.opcode == "fusion" else {op.name: op}
    read = [_read(op, inside, number, home[name], counted) for number, name in enumerate(op.operands) if name in home]
    return sum(read) + _written(op, inside, home, counted)


def flops(module: Module, op: Op) -> float:
    """Operations of the convolutions and matrix products in one execution, two a multiply-add; those that a kernel's call declares for itself."""
    if op.opcode == "custom-call":
        return _call_flops(module, op)
    inner = itertools.chain.from_iterable(module.computations[name].values() for name in op.calls) if op.opcode == "fusion" else (op,)
    total = 0.0
    for each in inner:
        if each.opcode == "fusion":
            total += flops(module, each)
        elif each.opcode in ("convolution", "dot"):
            operands = [module.computations[each.computation][name].shapes[0] for name in each.operands]
            total += 2.0 * (_convolution if each.opcode == "convolution" else _dot)(each, *operands)
    return total


def _call_flops(module: Module, op: Op) -> float:
    """Of a call: what it declares, or what cuBLAS and cuDNN compute in it, padding of a convolution included."""
    # Quotes are escaped inside of a GPU kernel's metadata.
    if declared := re.search(r'(?:"|\\22)flops(?:"|\\22):\s*(?:"|\\22)?(\d+)', op.attributes):
        return float(declared.group(1))
    target = re.search(r'custom_call_target="([^"]*)"', op.attributes)
    name, home = target.group(1) if target else "", module.computations[op.computation]
    if name.startswith("__cublas$"):
        left = home[op.operands[0]].shapes[0]
        axes = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', op.attributes)
        return 2.0 * math.prod(op.shapes[0].dims) * math.prod(left.dims[axis] for axis in integers(axes.group(1)))
    if name.startswith("__cudnn$conv"):
        _, kernel, _ = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes).groups()
        shapes = [home[each].shapes[0].dims for each in op.operands[:2]] + [op.shapes[0].dims]
        # (place of the kernel, place of the convolution's output) among left, right, result.
        filter_at, output_at = {"__cudnn$convBackwardInput": (1, 0), "__cudnn$convBackwardFilter": (2, 1)}.get(name, (1, 2))
        taps = math.prod(shapes[filter_at]) / shapes[filter_at][kernel.index("o")]
        return 2.0 * math.prod(shapes[output_at]) * taps
    return 0.0


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
    contracted = integers(re.search(r"lhs_contracting_dims=\{([^}]*)\}", op.attributes).group(1))
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
