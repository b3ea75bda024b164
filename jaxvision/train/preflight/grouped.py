"""Cycles of a program's grouped and depthwise convolutions by the listings of their code, since the compiler's estimates of these cannot be used.

Forward it estimates 2 to 4 times what its own code takes, for gradients of the kernel down to a fifth (docs/performance.md, "Convolution kernels").
Each such convolution is compiled once more, alone, as the program has it: its operands' shapes, window and order of dimensions. What the program
fused with it (a bias, a change of type) is not in the figure.
"""

import concurrent.futures
import pathlib
import re
import subprocess
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from jaxvision.train.preflight import hlo
from jaxvision.train.preflight.schedules import schedule
from jaxvision.train.preflight.topology import one_chip

# What a program may not hold that is kept for later versions; this one is compiled at once.
CHECKS = (jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint"),)
# Processes at a time, each of one convolution: beside others the compiler would have some operands on chip, and cuts its windows for that.
AT_ONCE = 2
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
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        cycles = pool.map(lambda each: _alone(*each, topology, cache), different.values())
        known = {key: value for key, value in zip(different, cycles) if value is not None}
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


def _said(convolution: hlo.Op) -> tuple[str, str, tuple[int, int], hlo.Shape]:
    """(window, order of dimensions, groups, result)."""
    text = convolution.attributes
    window, labels = re.search(r"window=\{([^}]*)\}", text), re.search(r"dim_labels=(\S+?)(?:,|$)", text)
    return window.group(1) if window else "", labels.group(1), _groups(convolution), convolution.shapes[0]


def rebuilt(convolution: hlo.Op, left: hlo.Shape, right: hlo.Shape) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """(a function of two arrays, their shapes) that is the convolution alone."""
    window, labels, (features, batches), to = _said(convolution)
    numbers, spatial = dimension_numbers(labels)
    fields = dict(part.split("=") for part in window.split())
    each = lambda name, otherwise: fields.get(name, "x".join([otherwise] * spatial)).split("x")
    integers = lambda name: tuple(int(n) for n in each(name, "1"))
    mirrored = [numbers.rhs_spec[2 + axis] for axis, yes in enumerate(each("rhs_reversal", "0")) if yes == "1"]

    def alone(image, kernel):
        # Ordered in memory as in the program: its code for a gradient of the kernel may take five times as long in another order.
        image, kernel = alike(ordered(image, left), ordered(kernel, right))
        result = jax.lax.conv_general_dilated(
            image,
            jax.lax.rev(kernel, mirrored),
            window_strides=integers("stride"),
            padding=[tuple(int(n) for n in pad.split("_")) for pad in each("pad", "0_0")],
            lhs_dilation=integers("lhs_dilate"),
            rhs_dilation=integers("rhs_dilate"),
            dimension_numbers=numbers,
            feature_group_count=features,
            batch_group_count=batches,
            preferred_element_type=_DTYPES[to.dtype],
        )
        return ordered(result, to)

    # The program may have taken a cast of one of the two into the convolution.
    alike = lambda *arrays: (array.astype(jnp.promote_types(*(other.dtype for other in arrays))) for array in arrays)
    ordered = lambda array, shape: with_layout_constraint(array, Layout(tuple(reversed(shape.minor_to_major))))
    return alone, tuple(jax.ShapeDtypeStruct(shape.dims, _DTYPES[shape.dtype]) for shape in (left, right))


def dimension_numbers(labels: str) -> tuple[jax.lax.ConvDimensionNumbers, int]:
    """Of "b01f_01io->b01f", and how many of the dimensions are spatial."""
    left, right, out = re.fullmatch(r"(\w+)_(\w+)->(\w+)", labels).groups()
    spatial = [str(axis) for axis in range(len(left) - 2)]
    where = lambda spec, first, second: tuple(spec.index(name) for name in (first, second, *spatial))
    return jax.lax.ConvDimensionNumbers(where(left, "b", "f"), where(right, "o", "i"), where(out, "b", "f")), len(spatial)


def _alone(convolution: hlo.Op, left: hlo.Shape, right: hlo.Shape, topology: str, cache: pathlib.Path | None) -> float | None:
    """Cycles of a convolution that is all that a program computes."""
    function, shapes = rebuilt(convolution, left, right)
    try:
        exported = jax.export.export(jax.jit(function), platforms=("tpu",), disabled_checks=CHECKS)(*shapes)
        listed = schedule(exported, one_chip(topology), cache)
    except (RuntimeError, subprocess.TimeoutExpired):
        return None
    # Copies to and from its layouts are not among these: the whole program has its own, with prices.
    found = [listed.cycles[name] for name in grouped_convolutions(hlo.parse(listed.text)) if name in listed.cycles]
    return found[0] if len(found) == 1 else None
