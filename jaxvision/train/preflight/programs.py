"""The programs of a run, lowered for a topology from shapes alone, and what the compiler says of each: compiled two at a time, kept by their text."""

import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxvision import data as data_room
from jaxvision.data.declared import DeclaredSource, declared_source
from jaxvision.data.subset import limited
from jaxvision.errors import DataError, OutOfTimeError, UserError
from jaxvision.models.registry import input_channels, shapes_of, variant_of
from jaxvision.tasks.base import count
from jaxvision.tasks.networks import build_frozen
from jaxvision.train.architecture import without_architecture
from jaxvision.train.config import plain
from jaxvision.train.curriculum import lower_resize
from jaxvision.train.mesh import batch_shards
from jaxvision.train.preflight import hlo, price
from jaxvision.train.preflight.grouped import grouped_convolutions, grouped_cycles
from jaxvision.train.preflight.kernels import kernel_cycles, kernels_of
from jaxvision.train.preflight.topology import COMPILER_OPTIONS, Topology
from jaxvision.train.setup import Executables, Setup, in_phase, set_up
from jaxvision.train.stages import stage_configs
from jaxvision.train.writers import replace_file

# Part of a kept result's name: what is read from a program, and how, changed.
FORMAT = 4
AT_ONCE = 2
COSTLIEST = 10
LAYERS = 60
KINDS = ("train", "eval", "init", "resize")
# Seconds after which a compilation that goes on is spoken of, and again.
SPOKEN = 60.0
LONGEST_COMPILE = 300  # seconds that an executable of a plain classifier should take at most
LONG = " (--config.model.scan=True, where a network has it, traces one block for all)"


@dataclasses.dataclass(frozen=True)
class Program:
    """One executable of a run.

    Attributes:
      stage: name of it, "" where there is one; phase: its number from 0.
      kind: "train", "eval", "init", or "resize" of the state at a phase's start; static: of a train step that has several.
      setup: what it belongs to; lowered: not compiled yet.
    """

    stage: str
    phase: int
    kind: str
    static: Any
    setup: Setup
    lowered: Any

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.setup.phase.size))
        of_stage = f"{self.stage}: " if self.stage else ""
        choice = f", {self.static}" if self.static is not None else ""
        return f"{of_stage}{self.kind}" + (f" {size}{choice}" if self.kind != "init" else "")


def setups(config: Any, topology: Topology, notes: list[str]) -> dict[str, Setup]:
    """{stage name: Setup} of every stage, in order. Networks that a stage takes from an earlier one are known by that one's shapes.

    notes: takes lines for people, such as which data were declared.
    """
    found: dict[str, Setup] = {}
    for name, stage in stage_configs(config):
        stage = without_architecture(stage)
        sources = _sources(stage, notes)
        saved, noted = {}, {}
        for key, section in stage.frozen.items():
            source = str(section.get("source", ""))
            if source.startswith("stage:") and source.removeprefix("stage:") in found:
                before = found[source.removeprefix("stage:")]
                saved[key], noted[key] = _variables(before), _noted(before)
            elif "model" in section and not pathlib.Path(source).is_file():
                saved[key], noted[key] = shapes_of(build_frozen(key, section), input_channels(section.model)), {}
                notes.append(f"frozen.{key}: no file {source!r} here; its shapes are those of {section.model}")
        found[name] = set_up(stage, sources=sources, frozen=(saved, noted), fresh=False, devices=topology.devices)
    return found


def _sources(config: Any, notes: list[str]) -> dict[str, Any]:
    sources = {}
    for split in ("train", "test"):
        try:
            sources[split] = data_room.open_source(config.data, split, seed=config.seed)
        except UserError as error:
            if not isinstance(error, DataError) and config.data.path:
                raise
            channels = config.data.channels or len(config.data.mean or variant_of(config.model.name).mean)
            sources[split] = declared_source(config.data, split, (*config.image_size, channels))
            note = f"data: {config.data.source} cannot be opened here; taken as declared"
            notes.extend([note] if note not in notes else [])
    limit, by = config.data.limit, config.data.limit_by
    if isinstance(sources["train"], DeclaredSource) and by:
        # Nobody knows their groups: a share of them is a share of the examples, a number of them any number.
        limit, by = limit if isinstance(limit, float) else None, ""
    if limit is not None:
        sources["train"] = limited(sources["train"], limit, config.data.limit_seed, by)
    return sources


def _variables(setup: Setup) -> dict[str, Any]:
    """Shapes of what a later stage reads from this one's checkpoint."""
    wanted = jax.eval_shape(lambda: dict(setup.task.init_variables(jax.random.key(0), setup.shapes)))
    return {name: setup.state_shapes.params if name == "params" else setup.state_shapes.extra[name] for name in wanted if name != "taps"}


def _noted(setup: Setup) -> dict[str, Any]:
    return {
        "config": plain(setup.config),
        "classes": list(setup.problem.classes),
        "channels": setup.problem.channels,
        "constants": plain(setup.task.constants),
        "step": setup.total_steps,
        "checksum": "",
    }


def programs(stage: str, setup: Setup, kinds: Sequence[str] = KINDS) -> Iterator[Program]:
    """The executables of one stage, those of `kinds`, lowered one after the other: init, and for each phase with programs of its own its steps.

    Before those of a later phase comes what brings the state there, where leaves depend on the image size.
    """
    seen: dict[tuple, Setup] = {}
    for number, phase in enumerate(setup.plan):
        if phase.program in seen:
            continue
        here = seen[phase.program] = setup if number == setup.number else in_phase(setup, number)
        if number and "resize" in kinds:
            with jax.set_mesh(here.mesh):
                if (resize := lower_resize(seen[setup.plan[number - 1].program], here)) is not None:
                    yield Program(stage, number, "resize", None, here, resize)
        executables = Executables(here)
        with jax.set_mesh(here.mesh):
            for key, lowered in executables.lowered("eval" in kinds):
                yield Program(stage, number, key[0], key[2] if key[0] == "train" else None, here, lowered)
            if number == 0 and "init" in kinds:
                yield Program(stage, number, "init", None, here, executables.init.lower(here.given))


def outline(found: Mapping[str, Setup]) -> list[dict[str, Any]]:
    """What the report needs of each stage beside its programs, as plain values."""
    stages, cut = [], False
    for name, setup in found.items():
        config, first = setup.config, {}
        for number, phase in enumerate(setup.plan):
            first.setdefault(phase.program, number)
        phases = [
            {"program": first[phase.program], "steps": phase.stop - phase.start, "batch": phase.batch, "size": list(phase.size)}
            for phase in setup.plan
        ]
        every = config.eval_every or max(1, round(setup.problem.train_size / config.batch_size))
        test = len(setup.sources["test"]) if "test" in setup.sources else 0
        stages.append(
            {
                "stage": name,
                "parameters": count(setup.state_shapes.params),
                "train_size": setup.problem.train_size,
                "phases": phases,
                "evaluations": math.ceil(setup.total_steps / every),
                "evaluation_steps": math.ceil(test / setup.eval_batch_size),
                "shards": batch_shards(setup.mesh),
                "mesh": dict(setup.mesh.shape),
                "accumulate": config.optim.accumulate,
                "remat": getattr(setup.task.model, "remat", None),
                "scan": getattr(setup.task.model, "scan", None),
                # An earlier stage is going to cut the network, by how much is not known before.
                "upper_bound": cut,
            }
        )
        cut = cut or setup.task.changes_architecture
    return stages


def compile_all(
    found: Iterator[Program], topology: Topology, cache: pathlib.Path | None, report: Callable[[str], None], minutes: float = math.inf
) -> list[dict[str, Any]]:
    """Figures of each program with its stage, phase, kind and name, in order; two are compiled at a time while the next ones are traced.

    Equal programs are compiled once. After `minutes` no further one is begun, and OutOfTimeError, one line, says which are left.
    """
    results: list[tuple[dict[str, Any], Any]] = []
    under_way: dict[str, concurrent.futures.Future] = {}
    clock = Clock(time.monotonic() + 60 * minutes)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for program in found:
            key = fingerprint(program.lowered, topology.name)
            if key not in under_way:
                under_way[key] = pool.submit(_figures, program.lowered, program.name, topology, cache, key, report, clock)
            row = {"stage": program.stage, "phase": program.phase, "kind": program.kind, "name": program.name}
            results.append((row, under_way[key]))
        pending = set(under_way.values())
        while pending:
            pending = concurrent.futures.wait(pending, SPOKEN).not_done
            if pending:
                report(f"  {clock.said()}; {len(under_way) - len(pending)} of {len(under_way)} programs done")
    left = [row["name"] for row, future in results if future.result() is None]
    if left:
        kept = "what is compiled is kept, and the same command goes on; " if cache is not None else ""
        raise OutOfTimeError(f"{minutes:g} min were over before {', '.join(left)} could be begun: {kept}--config.preflight.minutes sets the time")
    return [row | future.result() for row, future in results]


class Clock:
    """What is being compiled, since when, and when nothing further is begun."""

    def __init__(self, until: float):
        self.until, self.since = until, {}

    def said(self) -> str:
        """One line for people."""
        now = time.monotonic()
        spent = {name: now - since for name, since in self.since.copy().items()}
        return "compiling " + ", ".join(f"{name} for {each / 60:.0f} min" + (LONG if each > LONGEST_COMPILE else "") for name, each in spent.items())


def fingerprint(lowered: Any, topology: str) -> str:
    """Of the program's text, the topology and the compilers: equal ones have equal figures."""
    versions = [f"{name}={_version(name)}" for name in ("jaxlib", "libtpu")]
    return hashlib.sha256("\n".join((lowered.as_text(), topology, str(FORMAT), *versions)).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _figures(lowered: Any, name: str, topology: Topology, cache: pathlib.Path | None, key: str, report: Callable[[str], None], clock: Clock):
    """What `figures` finds, from the cache where it was found before; None when it is too late to begin."""
    path = cache / f"{key}.json" if cache is not None else None
    if path is not None and path.is_file():
        report(f"  {name}: known from {path}")
        return json.loads(path.read_text())
    began = time.monotonic()
    if began > clock.until:
        return None
    report(f"  {name}: compiling for {topology.name}")
    clock.since[name] = began
    try:
        compiled = lowered.compile(COMPILER_OPTIONS[topology.chip.platform])
    except jax.errors.JaxRuntimeError as error:
        found = too_large(str(error), topology.chip.memory)
        if found is None:
            raise
    else:
        spent = time.monotonic() - began
        module = hlo.parse(compiled.as_text())
        listed = kernel_cycles(module, topology.name, cache) | grouped_cycles(module, topology.name, cache)
        found = figures(module, _memory(compiled), topology, listed)
    del clock.since[name]
    found["compile_seconds"] = round(spent if found["compiled"] else time.monotonic() - began, 1)
    report(f"  {name}: compiled in {found['compile_seconds']:.0f} s" if found["compiled"] else f"  {name}: does not fit")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(found).encode())
    return found


def _memory(compiled: Any) -> dict[str, int]:
    memory = compiled.memory_analysis()
    return {
        "arguments_bytes": memory.argument_size_in_bytes,
        "outputs_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
    }


def too_large(message: str, memory: float) -> dict[str, Any] | None:
    """Figures from the compiler's refusal of a program that exceeds the memory; None where the message says something else."""
    if "hbm" not in message.lower() or not re.search(r"ran out of memory|exceed|RESOURCE_EXHAUSTED", message, re.IGNORECASE):
        return None
    unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
    size = lambda found: float(found.group(1)) * unit[found.group(2)]
    used = re.search(r"Used ([\d.]+)([KMGT]?)\w* of ([\d.]+)([KMGT]?)", message)
    parts = {part: re.search(rf"{part}\s+([\d.]+)([KMGT]?)", message) for part in ("arguments", "HLO temp", "program")}
    return {
        "compiled": False,
        "total_bytes": size(used) if used else memory,
        "memory_bytes": float(used.group(3)) * unit[used.group(4)] if used else memory,
        "arguments_bytes": size(parts["arguments"]) if parts["arguments"] else 0,
        "temporaries_bytes": size(parts["HLO temp"] or parts["program"]) if parts["HLO temp"] or parts["program"] else 0,
        "fits": False,
    }


def figures(module: hlo.Module, memory: Mapping[str, int], topology: Topology, cycles: Mapping[str, float]) -> dict[str, Any]:
    """What a page says of one program, as JSON: memory of a chip, predicted time and shares, collectives, the costliest ops.

    cycles: {op name: cycles of one call} of hand-written kernels and of grouped convolutions, by their listings.
    """
    chip = topology.chip
    priced = price.price(module, chip, cycles)
    sums = price.total(priced, chip)
    total = sum(memory.values())
    collectives: dict[str, dict[str, float]] = {}
    for each in hlo.collectives(module):
        entry = collectives.setdefault(each.kind, {"count": 0, "bytes": 0.0})
        entry["count"] += each.times
        entry["bytes"] += each.times * each.bytes
    unpriced = sorted((each for each in priced if each.how == "none"), key=lambda each: -each.bytes)
    by_hand = sorted((each for each in priced if each.how == "hand" and each.seconds > 0), key=lambda each: -each.seconds)
    return {
        "compiled": True,
        **memory,
        "total_bytes": total,
        "memory_bytes": chip.memory,
        "fits": total <= chip.memory,
        "seconds": sums.seconds,
        "augmentation_seconds": sums.augmentation_seconds,
        "seconds_by": sums.by,
        "memory_bound": sums.memory_bound,
        "flops": sums.flops,
        "augmentation_flops": sums.augmentation_flops,
        "bytes": sums.bytes,
        "unpriced_share": sums.unpriced_share,
        "share_of_peak": sums.share_of_peak(chip, augmentation=False),
        "share_of_peak_with_augmentation": sums.share_of_peak(chip, augmentation=True),
        "collectives": collectives,
        "unscheduled_kernels": len(kernels_of(module).keys() - cycles.keys()),
        "unlisted_convolutions": len(grouped_convolutions(module).keys() - cycles.keys()) if chip.platform == "tpu" else 0,
        "undeclared_kernels": sum(each.times for each in priced if each.op.opcode == "custom-call" and each.how == "hand" and not each.flops),
        "costliest": [_row(each) for each in sorted(priced, key=lambda each: -each.seconds)[:COSTLIEST]],
        "layers": [dataclasses.asdict(layer) for layer in price.by_layer(priced)[:LAYERS]],
        "by_hand": [_row(each) for each in by_hand[:COSTLIEST]],
        "unpriced": [_row(each) for each in unpriced[:COSTLIEST]],
    }


def _row(each: price.Priced) -> dict[str, Any]:
    op = each.op
    target = re.search(r'custom_call_target="([^"]*)"', op.attributes)
    return {
        "op": op.name,
        "opcode": target.group(1) if target else op.opcode,
        "layer": op.layer + (" (backward)" if op.backward else ""),
        "source": op.source,
        "times": each.times,
        "seconds": each.seconds,
        "how": each.how,
        "bytes": each.bytes,
        "flops": each.flops,
    }
