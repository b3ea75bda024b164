"""Cycles of all ops of a small program, the compiler's own code as well as kernels by hand, from the bundles that the compiler schedules for each.

The compiler's estimates of its own code can be off by several times (docs/performance.md: depthwise convolutions); its listings are of the code that
would run. A whole program is compiled in a process of its own that writes them down; what has the same code is listed once and looked up by the
compiler's table of such ops.

    python -m jaxvision.train.preflight.schedules v5e:1x1 FOLDER < program        prints what the compiled program is, and the cycles of its ops
"""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import jax
import jax.export

from jaxvision.train.preflight.kernels import READING, bundle_cycles

# Seconds for one program.
TIMEOUT = 1200
# What a listing's file is called: a time, the op, the number of the stage.
_LISTING = re.compile(r"^\d+-(.+)-\d+-final_bundles\.txt$")
_ALIKE = re.compile(r"^key:(\S+)\n.*\nequivalent_hlos\[size=\d+\]:\n((?:  \S+\n)*)", re.MULTILINE)


class Scheduled(NamedTuple):
    """text: of the compiled program, "" where it was refused; cycles: {op name: of one call}; error: why it was refused."""

    text: str
    cycles: dict[str, float]
    error: str


def schedule(program: jax.export.Exported, topology: str, cache: pathlib.Path | None) -> Scheduled:
    """A program for TPUs compiled for one chip of `topology`, with its listings. Kept in `cache` by its text.

    Raises RuntimeError where the process that compiles fails in another way than by the compiler's refusal.
    """
    key = hashlib.sha256(json.dumps([READING, topology, program.mlir_module()]).encode()).hexdigest()[:32]
    kept = cache / "schedules" / f"{key}.json" if cache is not None else None
    if kept is not None and kept.is_file():
        return Scheduled(**json.loads(kept.read_text()))
    with tempfile.TemporaryDirectory(prefix="bundles-") as folder:
        environment = {**os.environ, "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "jaxvision.train.preflight.schedules", topology, folder]
        done = subprocess.run(command, input=bytes(program.serialize()), capture_output=True, env=environment, timeout=TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"the compiler for {topology} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
    return Scheduled(**found)


def listed_cycles(folder: pathlib.Path) -> dict[str, float]:
    """{op name: cycles of one call} of the listings in a folder, those included that share another op's code."""
    own = {}
    for path in folder.glob("*-final_bundles.txt"):
        name = _LISTING.match(path.name).group(1)
        if not (name.startswith(("<", "TLP")) or name.endswith("schedule-analysis")):
            own[name] = bundle_cycles(path.read_text(errors="replace"))
    alike = {}
    for path in folder.glob("*-deduplication-map.txt"):
        for key, names in _ALIKE.findall(path.read_text()):
            alike.update({name: own[key] for name in names.split() if key in own})
    return {**alike, **own}


# --- in the process of its own ---


def _compile(program: bytes, topology: str, folder: pathlib.Path) -> dict[str, Any]:
    from jax.sharding import SingleDeviceSharding

    from jaxvision.train.preflight.topology import open_topology

    exported = jax.export.deserialize(bytearray(program))
    device = SingleDeviceSharding(open_topology(topology).devices[0])
    jitted = jax.jit(exported.call, in_shardings=device, out_shardings=device)
    try:
        compiled = jitted.trace(*exported.in_avals).lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        return {"text": "", "cycles": {}, "error": str(error)}
    return {"text": compiled.as_text(), "cycles": listed_cycles(folder), "error": ""}


if __name__ == "__main__":
    print(json.dumps(_compile(sys.stdin.buffer.read(), sys.argv[1], pathlib.Path(sys.argv[2]))))
