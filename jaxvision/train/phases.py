"""Phases of one training: a curriculum as a table in the config (EfficientTrain, Wang et al. 2023, arXiv 2211.09703, and ++, arXiv 2405.08768).

    phases = ({"until": "60ep", "size": 160, "magnitude": 1.0}, …, {"until": "300ep", "magnitude": 9.0})

A phase may change the size at which the network sees its images, how they are brought there, the batch, RandAugment's magnitude, drop path, and how
often an image that was read is used. Nothing else restarts at a boundary: the optimizer, averages, random keys, data position and the learning
rate go on. This file is arithmetic: from the table to steps.

`until` is where a phase ends: "60ep" epochs, 500 steps, or 0.2 of the compute of the run, where a step costs batch x area of the image and the run
as much as `epochs` at the full size. The learning rate follows the same measure: epochs done, steps done, or compute done. `schedule: (first, all)`
says instead, in epochs, at which place of how long a schedule the phase begins; ++ counts its stages so.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvision.errors import ConfigError, nearest
from jaxvision.train.config import run_length, with_changes

CROPS = ("spectrum", "resize")
# Of one phase, with what holds where the key is absent.
KEYS: dict[str, Any] = {
    "until": None,  # where it ends; the last one may leave it out
    "size": None,  # (H, W) or one number, at which the network sees images; image_size by default
    "crop": "spectrum",  # how they get there: "spectrum" after normalizing, or "resize", Lanczos, after RandAugment
    "batch": None,  # batch_size by default
    "magnitude": None,  # of RandAugment; its string's by default
    "drop_path": None,  # model.drop_path by default
    "replay": None,  # (uses of an image, batches that are remembered)
    "schedule": None,  # (first epoch, all epochs) of the learning rate's schedule
}
_NOISE = 1e-6  # of a step: what floating-point sums may add before a step is counted


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps start..stop-1 of a run and what holds there.

    Attributes:
      size: at which the network sees images. crop: how they get there, "" where that is image_size.
      batch, drop_path, replay: as the config says; drop_path None: the model's own.
      total, offset: the schedule's length in steps of this phase, and what is added to the count of updates to find the place in it.
      magnitudes: ((first step, RandAugment's magnitude from there), …) of the whole run, the same in each phase; () for the string's own.
    """

    start: int
    stop: int
    size: tuple[int, ...]
    crop: str
    batch: int
    drop_path: float | None
    replay: tuple[int, int] | None
    total: int
    offset: int
    magnitudes: tuple[tuple[int, float], ...] = ()

    @property
    def program(self) -> tuple:
        """Phases that have this in common run the same executables."""
        return self.size, self.crop, self.batch, self.drop_path, self.total, self.offset

    def config(self, config: Any) -> Any:
        """What the task of this phase is told: the network's own image size, batch and drop path."""
        if not config.phases:
            return config
        changes = {"image_size": self.size, "batch_size": self.batch, "eval_batch_size": config.eval_batch_size or config.batch_size}
        return with_changes(config, changes | ({} if self.drop_path is None else {"model.drop_path": self.drop_path}))


def plan(config: Any, train_size: int) -> tuple[Phase, ...]:
    """The phases of a complete config over `train_size` examples; one of all steps where it has none.

    Raises ConfigError, one line, for a key, a value or an order that makes no sense.
    """
    total, _ = run_length(config, train_size)
    image_size = tuple(config.image_size)
    if not config.phases:
        return (Phase(0, total, image_size, "", config.batch_size, None, None, total, 0),)
    rows = [_read(number, row, config, image_size) for number, row in enumerate(config.phases, 1)]
    if rows[-1]["size"] != image_size:
        raise ConfigError(f"phases: the last one has the size {rows[-1]['size']}, it has to be image_size={image_size}, which the run is judged at")
    unit, ends = _ends(config, rows)
    phases: list[Phase] = []
    exact, first = 0.0, 0.0
    for number, (row, end) in enumerate(zip(rows, ends), 1):
        cost = math.prod(row["size"]) / math.prod(image_size) if unit == "compute" else 1.0
        everything = _full_steps(config, train_size) * config.batch_size / row["batch"] / cost
        length = {"epochs": train_size / row["batch"], "steps": 1.0, "compute": everything}[unit]
        start = phases[-1].stop if phases else 0
        exact += (end - first) * length
        stop = math.ceil(exact - _NOISE)
        if stop <= start:
            raise ConfigError(f"phases: number {number} has no step: it ends at {config.phases[number - 1].get('until')!r}, step {stop} of the run")
        begins, whole = (first, ends[-1]) if row["schedule"] is None else row["schedule"]
        length = train_size / row["batch"] if row["schedule"] is not None else length
        of_all, offset = math.ceil(whole * length - _NOISE), round(begins * length) - start
        before = phases[-1] if phases else None
        if before is not None and (before.total, before.batch) == (of_all, row["batch"]) and abs(before.offset - offset) <= 1:
            offset = before.offset  # rounding alone would make another program
        kept = {key: row[key] for key in ("size", "crop", "batch", "drop_path", "replay")}
        phases.append(Phase(start, stop, **kept, total=of_all, offset=offset))
        first = end
    magnitudes = [row["magnitude"] for row in rows]
    if any(magnitude is not None for magnitude in magnitudes):
        if None in magnitudes or not config.augment.get("randaugment"):
            raise ConfigError("phases: 'magnitude' belongs in all of them or in none, and needs augment.randaugment")
        table = tuple((phase.start, float(magnitude)) for phase, magnitude in zip(phases, magnitudes))
        phases = [dataclasses.replace(phase, magnitudes=table) for phase in phases]
    return tuple(phases)


def saved_phase(config: Any, meta: Mapping[str, Any]) -> Phase:
    """The phase that a checkpoint with this `meta` was written in."""
    return plan(config, meta["train_size"])[meta.get("phase", 0)]


def number_at(phases: Sequence[Phase], step: int) -> int:
    """Index of the phase that runs `step`; the last one from its start on."""
    return next((number for number, phase in enumerate(phases) if step < phase.stop), len(phases) - 1)


def relative_compute(phases: Sequence[Phase]) -> float:
    """Share of the compute that the same examples would cost at the last phase's size, a step costing batch x area of the image."""
    examples = [(phase.stop - phase.start) * phase.batch for phase in phases]
    full = math.prod(phases[-1].size)
    return sum(count * math.prod(phase.size) / full for count, phase in zip(examples, phases)) / sum(examples)


def _full_steps(config: Any, train_size: int) -> float:
    """Steps that the whole run would have at the full size and batch."""
    return config.steps if config.steps is not None else config.epochs * train_size / config.batch_size


def _read(number: int, row: Any, config: Any, image_size: tuple[int, ...]) -> dict[str, Any]:
    where = f"phases: number {number}"
    if not isinstance(row, Mapping) and not hasattr(row, "items"):
        raise ConfigError(f"{where} is {row!r}; a phase is a table such as {{'until': '60ep', 'size': 160}}")
    for key in row:
        if key not in KEYS:
            raise ConfigError(f"{where} has the key {key!r}; {nearest(key, KEYS)}")
    row = {**KEYS, **row}
    size = image_size if row["size"] is None else row["size"]
    size = (size,) * len(image_size) if isinstance(size, int) else tuple(size)
    if len(size) != len(image_size) or not all(isinstance(side, int) and 0 < side <= full for side, full in zip(size, image_size)):
        raise ConfigError(f"{where} has the size {row['size']!r}; it takes whole pixels of at most image_size={image_size}")
    if row["crop"] not in CROPS:
        raise ConfigError(f"{where} has the crop {row['crop']!r}; {nearest(row['crop'], CROPS)}")
    if size != image_size and len(size) != 2:
        raise ConfigError(f"{where} has the size {size}: only pictures, (height, width), are cropped")
    if size != image_size and row["crop"] == "spectrum" and any(side % 2 for side in size):
        raise ConfigError(f"{where} has the size {size}: a spectrum is cropped to even sizes; take an even one, or 'crop': 'resize'")
    batch = config.batch_size if row["batch"] is None else row["batch"]
    if not isinstance(batch, int) or batch < 1 or batch % (config.optim.accumulate * config.optim.groups):
        parts = config.optim.accumulate * config.optim.groups
        raise ConfigError(f"{where} has the batch {batch!r}; it takes a whole number that optim.accumulate x optim.groups = {parts} divides")
    for key, low, high in (("magnitude", 0, 10), ("drop_path", 0, 1)):
        if row[key] is not None and not (isinstance(row[key], int | float) and low <= row[key] <= high):
            raise ConfigError(f"{where} has the {key} {row[key]!r}; it takes a number in {low}..{high}")
    for key, example in (("replay", "(uses of an image, batches remembered), (2, 256) for one"), ("schedule", "(first epoch, all epochs)")):
        pair = row[key]
        if pair is None:
            continue
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(value, int | float) for value in pair)):
            raise ConfigError(f"{where} has the {key} {pair!r}; it takes {example}")
    if row["replay"] is not None and (min(row["replay"]) < 1 or batch % row["replay"][0]):
        raise ConfigError(f"{where} has the replay {row['replay']!r}: uses and batches are at least 1, and the uses divide the batch, {batch}")
    if row["schedule"] is not None and not 0 <= row["schedule"][0] < row["schedule"][1]:
        raise ConfigError(f"{where} has the schedule {row['schedule']!r}: its first epoch lies in 0 and below all epochs")
    drop_path = None if row["drop_path"] is None else float(row["drop_path"])
    replay = None if row["replay"] is None or row["replay"][0] == 1 else tuple(map(int, row["replay"]))
    crop = "" if size == image_size else row["crop"]
    return {**row, "size": size, "crop": crop, "batch": batch, "drop_path": drop_path, "replay": replay}


def _ends(config: Any, rows: list[dict[str, Any]]) -> tuple[str, list[float]]:
    """(unit, where each phase ends in it)."""
    given = [row["until"] for row in rows]
    units = {_unit(number, until) for number, until in enumerate(given, 1) if until is not None}
    if None in given[:-1] or len(units) > 1:
        raise ConfigError("phases: each 'until' but the last is needed, and all in one unit: '60ep' epochs, 500 steps, or 0.2 of the compute")
    unit = units.pop() if units else "compute"
    if unit != "compute" and config[unit] is None:
        raise ConfigError(f"phases end by {unit}, so the run's length is config key {unit!r}")
    whole = {"epochs": config.epochs, "steps": config.steps, "compute": 1.0}[unit]
    ends = [whole if until is None else float(str(until).removesuffix("ep").strip()) for until in given]
    if any(b <= a for a, b in itertools.pairwise([0.0, *ends])) or abs(ends[-1] - whole) > 1e-9 * whole:
        of = "of the compute" if unit == "compute" else unit
        raise ConfigError(f"phases: 'until' has to grow up to the run's end, {whole:g} {of}, got {given}")
    return unit, ends


def _unit(number: int, until: Any) -> str:
    if isinstance(until, str) and re.fullmatch(r"\d+(\.\d+)?\s*ep", until.strip()):
        return "epochs"
    if isinstance(until, int) and not isinstance(until, bool):
        return "steps"
    if isinstance(until, float) and 0 < until <= 1:
        return "compute"
    raise ConfigError(f"phases: number {number} ends at {until!r}; it takes epochs ('60ep'), steps (500), or a share of the compute (0.2)")
