"""`--mode=preflight`: from a config and a topology to a page, preflight.json, and whether the run fits."""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxvision.errors import ConfigError, DoesNotFitError, nearest
from jaxvision.train.config import complete, with_changes
from jaxvision.train.preflight.programs import KINDS, compile_all, outline, programs, setups
from jaxvision.train.preflight.report import page, summarize
from jaxvision.train.preflight.topology import open_topology
from jaxvision.train.setup import prepare_workdir
from jaxvision.train.writers import replace_file


def preflight(config: Any, topology: str, workdir: str | pathlib.Path | None = None, *, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Compiles every program of a run for `topology` ("v5e:16x16", "h100:8"), prints a page, and returns what preflight.json holds.

    Figures of a program are kept in the folder of config.compilation_cache by the hash of its text, and not compiled again. With a workdir,
    preflight.json is written there.

    Raises DoesNotFitError (exit code 3) after the page where a program needs more memory than a chip; OutOfTimeError where config.preflight.minutes
    are over before all programs are begun; ConfigError for a topology, a config, or data that cannot be opened and are not declared.
    """
    config = complete(config)
    kinds = kinds_of(config)
    began = time.monotonic()
    target = open_topology(topology)
    folder = prepare_workdir(workdir) if workdir is not None else None
    cache = cache_folder(config)
    notes: list[str] = []
    with _without_jax_cache():
        found = setups(with_changes(config, {"compilation_cache": ""}), target, notes)
        every = (program for name, setup in found.items() for program in programs(name, setup, kinds))
        report(f"preflight for {topology}: {len(target.devices)} chips; nothing is run")
        rows = compile_all(every, target, cache, report, config.preflight.minutes)
        stages = outline(found)
    summary = summarize(stages, rows, target.name, target.chip, len(target.devices), notes) | {"seconds": round(time.monotonic() - began, 1)}
    report(page(summary))
    if folder is not None:
        replace_file(folder / "preflight.json", json.dumps(summary, indent=1).encode())
    if not summary["fits"]:
        raise DoesNotFitError(f"the run does not fit {topology}: {summary['misfit']}")
    return summary


def kinds_of(config: Any) -> tuple[str, ...]:
    """Which programs config.preflight asks for. Raises ConfigError for an unknown one, or when the train step is not among them."""
    kinds = tuple(config.preflight.programs)
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"config key 'preflight.programs' has {kind!r}; {nearest(kind, KINDS)}")
    if "train" not in kinds:
        raise ConfigError("config key 'preflight.programs' leaves out 'train', whose figures the page is about")
    return kinds


def cache_folder(config: Any) -> pathlib.Path | None:
    """Where figures are kept: beside the run's executables; None where it keeps none."""
    return pathlib.Path(config.compilation_cache).expanduser() / "preflight" if config.compilation_cache else None


@contextlib.contextmanager
def _without_jax_cache() -> Iterator[None]:
    """Executables for a chip that is not there cannot be read back from JAX's cache; figures are kept instead."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
