"""From figures of programs to one page and preflight.json. Nothing here compiles, so it can be tried on a table of figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxvision.train.preflight.chips import Chip
from jaxvision.train.preflight.price import UNPRICED_LIMIT
from jaxvision.train.preflight.programs import LONGEST_COMPILE

HEAD = ("program", "compiled", "arguments", "temporaries", "total", "a run of it", "share of peak", "with augm.")
OPS = ("time", "share", "op", "layer", "source")
LAYERS = ("time", "share", "ops", "bytes", "GFLOP", "layer")
LAYERS_SHOWN = 15  # all that preflight.json has are four times as many
LEAST_SHOWN = 0.001  # of the step, that an op takes to be listed


def summarize(
    stages: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], topology: str, chip: Chip, chips: int, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that the page says, as preflight.json holds it.

    Args:
      stages: as `programs.outline` gives them.
      rows: figures of each program with "stage", "phase", "kind", "name", as `programs.compile_all` gives them.
      chips: of the topology.

    The figures at the top (predicted_step_seconds, share_of_peak, temporaries_bytes, …) are of the train step of the last stage's last phase; `fits`
    is of all programs.
    """
    last = stages[-1]
    train = _row(rows, last["stage"], last["phases"][-1]["program"], "train")
    batch = last["phases"][-1]["batch"]
    misfits = [row for row in rows if not row["fits"]]
    seconds = train.get("seconds")
    of_run = [_hours(stage, rows) for stage in stages]
    training, evaluation = (None if None in hours else sum(hours) for hours in zip(*of_run))
    return {
        "topology": topology,
        "chip": chip.name,
        "chips": chips,
        "mesh": last["mesh"],
        "batch": batch,
        "batch_per_chip": batch / last["shards"],
        "parameters": last["parameters"],
        "fits": not misfits,
        "misfit": "; ".join(misfit(row, _stage(stages, row["stage"])) for row in misfits),
        "upper_bound": any(stage["upper_bound"] for stage in stages),
        "predicted_step_seconds": seconds,
        "predicted_augmentation_seconds": train.get("augmentation_seconds"),
        "share_of_peak": train.get("share_of_peak"),
        "share_of_peak_with_augmentation": train.get("share_of_peak_with_augmentation"),
        "flops_per_step": train["flops"] * chips if "flops" in train else None,
        "predicted_images_per_second": batch / seconds if seconds else None,
        "predicted_training_hours": training,
        "predicted_evaluation_hours": evaluation,
        "arguments_bytes": train["arguments_bytes"],
        "temporaries_bytes": train["temporaries_bytes"],
        "total_bytes": train["total_bytes"],
        "memory_bytes": train["memory_bytes"],
        "collectives": train.get("collectives", {}),
        "notes": [*notes, *_remarks(stages, rows, train, chip.platform)],
        "stages": list(stages),
        "programs": list(rows),
    }


def _row(rows: Sequence[Mapping[str, Any]], stage: str, phase: int, kind: str) -> Mapping[str, Any]:
    """The program of a phase; of several static choices the slowest one, so that what is promised of the run holds. {}: it was not asked for."""
    found = [row for row in rows if (row["stage"], row["phase"], row["kind"]) == (stage, phase, kind)]
    return max(found, key=lambda row: (not row["fits"], row.get("seconds", 0.0)), default={})


def _stage(stages: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(stage for stage in stages if stage["stage"] == name)


def _hours(stage: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """(training, evaluation) of one stage; None where a program's time is not known."""
    steps = [(phase["steps"], _row(rows, stage["stage"], phase["program"], "train").get("seconds")) for phase in stage["phases"]]
    evaluation = _row(rows, stage["stage"], stage["phases"][-1]["program"], "eval").get("seconds")
    training = None if any(seconds is None for _, seconds in steps) else sum(count * seconds for count, seconds in steps) / 3600
    return training, None if evaluation is None else stage["evaluations"] * stage["evaluation_steps"] * evaluation / 3600


def misfit(row: Mapping[str, Any], stage: Mapping[str, Any]) -> str:
    """One line: which program, how much it needs, and what to change."""
    return f"{row['name']} needs {_gib(row['total_bytes'])} of {_gib(row['memory_bytes'])} a chip: " + ", or ".join(advice(row, stage))


def advice(row: Mapping[str, Any], stage: Mapping[str, Any]) -> list[str]:
    """Settings that would make a program fit, the cheapest first."""
    phase = next(phase for phase in stage["phases"] if phase["program"] == row["phase"])
    memory, constant = row["memory_bytes"], row["arguments_bytes"]
    found = []
    if constant > memory / 2 and stage["mesh"]["data"] > 1:
        found.append(f"--config.mesh.fsdp={stage['mesh']['data'] * stage['mesh']['fsdp']} --config.mesh.data=1 (the state is cut over all chips)")
    if row["kind"] == "train":
        if stage["remat"] is False:
            found.append("--config.model.remat=True (blocks are computed again for the backward pass)")
        found.append(f"--config.optim.accumulate={2 * stage['accumulate']} (the same batch in more parts)")
    if row["kind"] in ("train", "eval"):
        # What grows with the batch is taken to be everything but the arguments; a tenth is left free.
        share = max(0.0, memory - constant) / max(row["total_bytes"] - constant, 1.0) * 0.9
        batch = int(phase["batch"] * min(share, 1.0)) // stage["shards"] * stage["shards"]
        key = "batch_size" if row["kind"] == "train" else "eval_batch_size"
        if batch:
            found.append(f"--config.{key}={batch}")
    return found or ["more chips, or chips with more memory"]


def _remarks(stages: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], train: Mapping[str, Any], platform: str) -> list[str]:
    found = []
    if (share := train.get("unpriced_share", 0.0)) > UNPRICED_LIMIT:
        found.append(f"ops without any price move {share:.0%} of the train step's bytes, so no share of the peak is quoted")
    if train.get("memory_bound"):
        found.append("the train step's time is that of its bytes: more than the ops' own prices add up to")
    slow = [row for row in rows if row.get("compile_seconds", 0) > LONGEST_COMPILE]
    found += [f"{row['name']} took {row['compile_seconds'] / 60:.1f} min to compile{_shorter(row, stages)}" for row in slow]
    if any(stage["upper_bound"] for stage in stages):
        found.append("upper bound: a stage is compiled at the size that an earlier one is going to cut")
    if platform != "tpu" and "seconds" in train:
        found.append("the compiler estimates no times for this chip: every op is priced by its bytes and operations, a lower bound")
    if train.get("unscheduled_kernels"):
        found.append(f"{train['unscheduled_kernels']} kernels could not be compiled alone: they are priced by bytes and declared operations only")
    if train.get("unlisted_convolutions"):
        found.append(f"{train['unlisted_convolutions']} grouped convolutions could not be compiled alone: their times are rough estimates")
    if train.get("undeclared_kernels"):
        found.append(f"operations inside {train['undeclared_kernels']} calls of kernels that declare none are not counted in the share of the peak")
    return found


def _shorter(row: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> str:
    """What would compile faster."""
    scan = row["kind"] == "train" and _stage(stages, row["stage"])["scan"] is False
    return ": --config.model.scan=True traces one block for all, and takes 1.4 to 1.6 times as long a step" if scan else ""


def page(summary: Mapping[str, Any]) -> str:
    """The page for people."""
    lines = [
        "",
        f"{summary['topology']}: {summary['chips']} chips, mesh {_mesh(summary['mesh'])}, batch {summary['batch']} = "
        f"{summary['batch_per_chip']:g} a chip. Predicted from what the compiler says, not measured.",
        f"parameters {summary['parameters']:,}" + (f"; FLOPs a step {summary['flops_per_step']:.3g}" if summary["flops_per_step"] else ""),
        "",
        *_table(
            (*HEAD[:5], f"of {_gib(summary['memory_bytes'])}", *HEAD[5:]),
            [_program(row) for row in summary["programs"]],
        ),
        "",
    ]
    if summary["collectives"]:
        each = (f"{kind} {entry['count']} with {_bytes(entry['bytes'])}" for kind, entry in summary["collectives"].items())
        lines.append("collectives of a train step: " + ", ".join(each))
    last = summary["programs"][_index(summary)]
    if summary["predicted_step_seconds"]:
        by = last["seconds_by"]
        seconds = summary["predicted_step_seconds"]
        lines.append(
            f"train step {_ms(seconds)}: {_ms(by['compiler'])} by the compiler's estimates, {_ms(by['listing'])} by listings of its code, "
            f"{_ms(by['hand'])} priced by hand, "
            f"{_ms(by['link'])} collectives; of it augmentation {_ms(summary['predicted_augmentation_seconds'])}; "
            f"without any price {last['unpriced_share']:.1%} of the bytes"
        )
        lines.append(f"predicted {summary['predicted_images_per_second']:,.0f} images/s")
        if summary["predicted_training_hours"] is not None:
            hours, evaluation = summary["predicted_training_hours"], summary["predicted_evaluation_hours"]
            evaluated = "" if evaluation is None else f", {evaluation:.2g} evaluation"
            lines.append(f"predicted hours of the run: {hours:.3g} training{evaluated}; reading and decoding images not counted")
        for title, key in (("costliest ops of the train step:", "costliest"), ("priced by hand:", "by_hand"), ("without any price:", "unpriced")):
            shown = [each for each in last[key] if each["how"] == "none" or each["seconds"] > LEAST_SHOWN * seconds]
            if shown:
                lines += ["", title, *_table(OPS, [_op(each, seconds) for each in shown])]
        lines += ["", "by layer, blocks added up:", *_table(LAYERS, [_layer(each, seconds) for each in last["layers"][:LAYERS_SHOWN]])]
    lines.append("")
    lines += [f"note: {note}" for note in summary["notes"]]
    lines.append("fits" if summary["fits"] else f"DOES NOT FIT: {summary['misfit']}")
    return "\n".join(lines)


def _index(summary: Mapping[str, Any]) -> int:
    """Of the program that the figures at the top are of."""
    rows, last = summary["programs"], summary["stages"][-1]
    return rows.index(_row(rows, last["stage"], last["phases"][-1]["program"], "train"))


def _program(row: Mapping[str, Any]) -> tuple[str, ...]:
    share = lambda key: "-" if row.get(key) is None or row["kind"] != "train" else f"{row[key]:.1%}"
    return (
        row["name"],
        f"{row['compile_seconds']:.0f} s",
        _bytes(row["arguments_bytes"]),
        _bytes(row["temporaries_bytes"]),
        _bytes(row["total_bytes"]),
        f"{row['total_bytes'] / row['memory_bytes']:.0%}" + ("" if row["fits"] else " !"),
        _ms(row["seconds"]) if row["compiled"] else "-",
        share("share_of_peak"),
        share("share_of_peak_with_augmentation"),
    )


def _op(each: Mapping[str, Any], seconds: float) -> tuple[str, ...]:
    name = each["opcode"] + (f" x {each['times']}" if each["times"] > 1 else "")
    return _ms(each["seconds"]), f"{each['seconds'] / seconds:.1%}", name, each["layer"] or each["op"], each["source"]


def _layer(each: Mapping[str, Any], seconds: float) -> tuple[str, ...]:
    figures = (_ms(each["seconds"]), f"{each['seconds'] / seconds:.1%}", str(each["ops"]), _bytes(each["bytes"]), f"{each['flops'] / 1e9:.3g}")
    return (*figures, each["name"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (head, *rows)]


def _mesh(mesh: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "of one"


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 10 else f"{seconds:.1f} s"
