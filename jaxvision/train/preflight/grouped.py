"""Cycles of a program's grouped and depthwise convolutions by the listings of their code, since the compiler's estimates of these cannot be used.

Forward it estimates 2 to 4 times what its own code takes, for gradients of the kernel down to a fifth (docs/performance.md, "Convolution kernels").
Each such convolution is compiled once more, alone, as the program has it: its operands' shapes, window and order of dimensions. What the program
fused with it (a bias, a change of type) is not in the figure.
"""

import itertools
import pathlib
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jaxvision.train.preflight import hlo
from jaxvision.train.preflight.schedules import schedule
from jaxvision.train.preflight.topology import one_chip

# Convolutions in one program, so that their operands fit one chip's memory.
AT_ONCE = 6
_DTYPES = {"bf16": jnp.bfloat16, "f16": jnp.float16, "f32": jnp.float32}


def grouped_cycles(module: hlo.Module, topology: str, cache: pathlib.Path | None) -> dict[str, float]:
    """{op name: cycles of one call} of ops that hold one grouped convolution; those that cannot be compiled alone are left out.

    Kept in `cache` by the programs that they are compiled in. On GPUs, of which there are no listings, nothing is found.
    """
    if topology.startswith("h100"):
        return {}
    found = grouped_convolutions(module)
    keys = {name: (left, right, _said(convolution)) for name, (convolution, left, right) in found.items()}
    different = {keys[name]: each for name, each in found.items()}
    known: dict[tuple, float] = {}
    for start in range(0, len(different), AT_ONCE):
        some = list(different)[start : start + AT_ONCE]
        cycles = _alone([different[key] for key in some], topology, cache)
        known |= {some[number]: value for number, value in cycles.items()}
    return {name: known[key] for name, key in keys.items() if key in known}


def grouped_convolutions(module: hlo.Module) -> dict[str, tuple[hlo.Op, hlo.Shape, hlo.Shape]]:
    """{op name: (its convolution, what is convolved, the kernel)} of the ops that the compiler estimates and that hold one grouped convolution."""
    found = {}
    for op, _ in hlo.executed(module):
        inside = [each for each in hlo.with_fused(module, (op,)) if each.opcode == "convolution" and max(_groups(each)) > 1]
        if op.cycles is not None and len(inside) == 1:
            home = module.computations[inside[0].computation]
            left, right = (home[name].shapes[0] for name in inside[0].operands)
            if {left.dtype, right.dtype, inside[0].shapes[0].dtype} <= _DTYPES.keys():
                found[op.name] = (inside[0], left, right)
    return found


def _groups(convolution: hlo.Op) -> tuple[int, int]:
    """(of the features, of the batch)."""
    count = lambda kind: re.search(rf"{kind}_group_count=(\d+)", convolution.attributes)
    return tuple(int(found.group(1)) if (found := count(kind)) else 1 for kind in ("feature", "batch"))


def _said(convolution: hlo.Op) -> tuple[str, str, tuple[int, int], str]:
    """(window, order of dimensions, groups, type of the result)."""
    text = convolution.attributes
    window, labels = re.search(r"window=\{([^}]*)\}", text), re.search(r"dim_labels=(\S+?)(?:,|$)", text)
    return window.group(1) if window else "", labels.group(1), _groups(convolution), convolution.shapes[0].dtype


def rebuilt(convolution: hlo.Op, left: hlo.Shape, right: hlo.Shape) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """(a function of two arrays, their shapes) that is the convolution alone."""
    window, labels, (features, batches), dtype = _said(convolution)
    numbers, spatial = dimension_numbers(labels)
    fields = dict(part.split("=") for part in window.split())
    each = lambda name, otherwise: fields.get(name, "x".join([otherwise] * spatial)).split("x")
    integers = lambda name: tuple(int(n) for n in each(name, "1"))
    mirrored = [numbers.rhs_spec[2 + axis] for axis, yes in enumerate(each("rhs_reversal", "0")) if yes == "1"]

    def alone(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            jax.lax.rev(kernel, mirrored),
            window_strides=integers("stride"),
            padding=[tuple(int(n) for n in pad.split("_")) for pad in each("pad", "0_0")],
            lhs_dilation=integers("lhs_dilate"),
            rhs_dilation=integers("rhs_dilate"),
            dimension_numbers=numbers,
            feature_group_count=features,
            batch_group_count=batches,
            preferred_element_type=_DTYPES[dtype],
        )

    return alone, tuple(jax.ShapeDtypeStruct(shape.dims, _DTYPES[shape.dtype]) for shape in (left, right))


def dimension_numbers(labels: str) -> tuple[jax.lax.ConvDimensionNumbers, int]:
    """Of "b01f_01io->b01f", and how many of the dimensions are spatial."""
    left, right, out = re.fullmatch(r"(\w+)_(\w+)->(\w+)", labels).groups()
    spatial = [str(axis) for axis in range(len(left) - 2)]
    where = lambda spec, first, second: tuple(spec.index(name) for name in (first, second, *spatial))
    return jax.lax.ConvDimensionNumbers(where(left, "b", "f"), where(right, "o", "i"), where(out, "b", "f")), len(spatial)


def _alone(convolutions: Sequence[tuple], topology: str, cache: pathlib.Path | None) -> dict[int, float]:
    """{number: cycles} of convolutions that one program computes one after another."""
    functions, shapes = zip(*(rebuilt(*each) for each in convolutions))

    def program(*arrays):
        results = []
        for number, function in enumerate(functions):
            with jax.named_scope(f"convolution_{number}"):
                results.append(function(*arrays[2 * number : 2 * number + 2]))
        return results

    try:
        listed = schedule(jax.export.export(jax.jit(program), platforms=("tpu",))(*itertools.chain(*shapes)), one_chip(topology), cache)
    except (RuntimeError, subprocess.TimeoutExpired):
        return {}
    # Copies to and from their layouts are not among these: the whole program has its own, with prices.
    found = {}
    for name, (convolution, _, _) in grouped_convolutions(hlo.parse(listed.text)).items():
        number = re.search(r"/convolution_(\d+)/", convolution.op_name)
        if number and name in listed.cycles:
            found[int(number.group(1))] = listed.cycles[name]
    return found
