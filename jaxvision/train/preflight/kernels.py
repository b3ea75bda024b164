"""Cycles of kernels written by hand, which the compiler does not estimate: the bundles that it schedules, times the trips of the loops they are in.

A TPU's core issues one bundle of instructions a cycle, so bundles times trips is a kernel's own time, waits for memory aside. The compiler writes its
bundles down only when told so before it is loaded: each kernel is compiled once more, alone, in a process of its own.

    python -m jaxvision.train.preflight.kernels v5e:1x1 < kernels.json        prints a list of cycles
"""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvision.train.preflight import hlo

CALL = "tpu_custom_call"
# Of one process, for all kernels of a program.
TIMEOUT = 600
_DTYPES = {"pred": "bool", "bf16": "bfloat16", "f16": "float16", "f32": "float32", "s32": "int32", "u32": "uint32", "s8": "int8", "u8": "uint8"}
# Address, whether a loop's body begins, a mark for each loop around, what the bundle holds.
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(LB)?(?:[A-Z]{2})?:\s*(>*) \{(.*)", re.MULTILINE)
EXIT = re.compile(r"scmp\.\w+\.s32\.totalorder %\w+, (\d+) /\* loop exit test")
# Part of what kept figures are named by: raised when a listing is read differently.
READING = 2


def kernels_of(module: hlo.Module) -> dict[str, dict[str, Any]]:
    """{op name: what it takes to compile the kernel alone} of the hand-written kernels that a program runs."""
    found = {}
    for op, _ in hlo.executed(module):
        if op.opcode == "custom-call" and f'custom_call_target="{CALL}"' in op.attributes:
            home = module.computations[op.computation]
            operands = [shape for name in op.operands for shape in home[name].shapes]
            if all(shape.dtype in _DTYPES for shape in (*operands, *op.shapes)):
                found[op.name] = {
                    "config": _config(op.attributes),
                    "operands": [[_DTYPES[shape.dtype], list(shape.dims)] for shape in operands],
                    "results": [[_DTYPES[shape.dtype], list(shape.dims)] for shape in op.shapes],
                }
    return found


def _config(attributes: str) -> dict[str, Any]:
    """The kernel itself and its settings, as the compiler is given them."""
    at = attributes.index("backend_config=") + len("backend_config=")
    whole, _ = json.JSONDecoder().raw_decode(attributes[at:])
    config = {"custom_call_config": {key: value for key, value in whole["custom_call_config"].items() if value not in ([], "", None)}}
    limit = whole.get("scoped_memory_configs")  # of what the kernel may keep on chip
    return config | ({"scoped_memory_configs": limit} if limit else {})


def kernel_cycles(module: hlo.Module, topology: str, cache: pathlib.Path | None) -> dict[str, float]:
    """{op name: cycles of one call}; kernels that could not be compiled alone are left out. Kept in `cache` by the kernel's own text."""
    if topology.startswith("h100") or not (found := kernels_of(module)):
        return {}
    chip = topology.split(":")[0]
    keys = {name: hashlib.sha256(json.dumps([READING, chip, kernel], sort_keys=True).encode()).hexdigest()[:32] for name, kernel in found.items()}
    path = lambda key: cache / "kernels" / f"{key}.json" if cache is not None else None
    known = {key: json.loads(path(key).read_text()) for key in set(keys.values()) if cache is not None and path(key).is_file()}
    missing = {keys[name]: kernel for name, kernel in found.items() if keys[name] not in known}
    if missing:
        for key, value in zip(missing, _in_a_process(list(missing.values()), topology)):
            known[key] = value
            if cache is not None and value is not None:
                path(key).parent.mkdir(parents=True, exist_ok=True)
                path(key).write_text(json.dumps(value))
    return {name: known[key] for name, key in keys.items() if known.get(key) is not None}


def _in_a_process(kernels: Sequence[Mapping[str, Any]], topology: str) -> list[float | None]:
    with tempfile.TemporaryDirectory(prefix="bundles-") as folder:
        environment = {**os.environ, "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "jaxvision.train.preflight.kernels", topology, folder]
        try:
            done = subprocess.run(command, input=json.dumps(list(kernels)), capture_output=True, text=True, env=environment, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return [None] * len(kernels)
    if done.returncode:
        return [None] * len(kernels)
    return json.loads(done.stdout.splitlines()[-1])


def bundle_cycles(text: str) -> float:
    """Cycles of one listing: each bundle times the trips of the loops around it, by the constants that their exit tests compare with.

    `>` marks after an address say how deep in loops a bundle lies; `LB:` begins a loop's body, which lasts to the last bundle as deep before another
    body begins there or further out: single bundles in between lose their marks. A loop without a constant counts once.
    """
    found = _BUNDLE.findall(text)
    depths, trips = [len(marks) for _, marks, _ in found], [1.0] * len(found)
    for start, (begins, marks, _) in enumerate(found):
        if not begins or not marks:
            continue
        until = next((i for i in range(start + 1, len(found)) if found[i][0] and depths[i] <= depths[start]), len(found))
        end = max(i for i in range(start, until) if depths[i] >= depths[start])
        tests = (EXIT.search(found[i][2]) for i in range(start, end + 1) if depths[i] == depths[start])
        count = next((float(test.group(1)) for test in tests if test), 1.0)
        for i in range(start, end + 1):
            trips[i] *= count
    return sum(trips)


# --- in the process of its own ---


def _compile(kernel: Mapping[str, Any], device: Any, number: int) -> None:
    import jax
    from jax._src.interpreters import mlir
    from jax.extend.core import Primitive
    from jax.sharding import SingleDeviceSharding

    primitive = Primitive(f"kernel_{number}")
    primitive.multiple_results = True
    results = [jax.core.ShapedArray(tuple(shape), dtype) for dtype, shape in kernel["results"]]
    primitive.def_abstract_eval(lambda *_: results)

    def lower(context, *operands):
        orders = lambda avals: [list(reversed(range(len(aval.shape)))) for aval in avals]
        call = mlir.custom_call(
            CALL,
            result_types=[mlir.aval_to_ir_type(context.module_context, aval) for aval in results],
            operands=operands,
            backend_config=json.dumps(kernel["config"]),
            api_version=1,
            operand_layouts=orders(context.avals_in),
            result_layouts=orders(results),
        )
        return call.results

    mlir.register_lowering(primitive, lower)
    sharding = SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(tuple(shape), dtype) for dtype, shape in kernel["operands"]]
    jitted = jax.jit(lambda *arrays: primitive.bind(*arrays), in_shardings=sharding, out_shardings=sharding)
    jitted.trace(*arguments).lower(lowering_platforms=("tpu",)).compile()


def _listings(folder: pathlib.Path, before: set[str]) -> list[pathlib.Path]:
    """Listings of bundles that came since `before`, without those of the program around the kernel."""
    return [
        path
        for path in folder.glob("*-final_bundles.txt")
        if path.name not in before and not re.search(r"schedule-analysis|TLP|<|-copy|-bitcast|-fusion", path.name)
    ]


def main(topology: str, folder: str) -> None:
    from jaxvision.train.preflight.topology import one_chip, open_topology

    device = open_topology(one_chip(topology)).devices[0]
    found: list[float | None] = []
    for number, kernel in enumerate(json.load(sys.stdin)):
        before = {path.name for path in pathlib.Path(folder).glob("*-final_bundles.txt")}
        _compile(kernel, device, number)
        listings = _listings(pathlib.Path(folder), before)
        found.append(max((bundle_cycles(path.read_text(errors="replace")) for path in listings), default=None))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
