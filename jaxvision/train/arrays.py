"""Named arrays to a folder and back, by orbax: the only place that knows orbax's interface."""

import contextlib
import functools
import logging
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.trees import named_leaves


def writer_of(arrays: Mapping[str, Any], folder: pathlib.Path) -> Callable[[], None]:
    """Copies arrays out of the way of donation and returns what writes them into `folder`, to be called once, from any thread.

    One process copies to the host with `np.array` (what `device_get` returns for a CPU array is a view of its buffer) and leaves all of orbax to
    the returned function. Of several processes none can copy everything: orbax's asynchronous save is called here, which returns when each has
    copied its shards, and its threads meet at barriers of the coordination service; the returned function waits for them.
    """
    return _copy(arrays, folder) if jax.process_count() == 1 else _begin_together(arrays, folder)


def _copy(arrays: Mapping[str, Any], folder: pathlib.Path) -> Callable[[], None]:
    # One shard of what every device holds; device_get, because a transfer guard takes any other way to the host for an accident.
    read = jax.device_get({name: leaf.addressable_data(0) if _replicated(leaf) else leaf for name, leaf in arrays.items()})
    copies = nest({name: np.array(leaf) for name, leaf in read.items()})

    def write() -> None:
        import orbax.checkpoint as ocp

        _ignore_late_writes()
        with without_orbax_log(), contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as saver:
            saver.save(folder, args=ocp.args.PyTreeSave(copies))

    return write


@functools.cache
def _ignore_late_writes() -> None:
    """Writes still under way when one of them failed report to an event loop that is gone; the first failure is raised, these say nothing.

    To be called before the first write: they report from threads of their own, as soon as the loop is closed and before the failure arrives here.
    """
    shown = sys.excepthook

    def hook(kind, error, trace):
        if not (kind is RuntimeError and str(error) == "Event loop is closed"):
            shown(kind, error, trace)

    sys.excepthook = hook


def _replicated(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.is_fully_replicated


def _begin_together(arrays: Mapping[str, Any], folder: pathlib.Path) -> Callable[[], None]:
    import orbax.checkpoint as ocp

    saver = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
    with without_orbax_log():
        saver.save(folder, args=ocp.args.PyTreeSave(nest(arrays)))

    def write() -> None:
        with without_orbax_log():
            saver.close()

    return write


def read_arrays(folder: pathlib.Path, shardings: Mapping[str, Any]) -> dict[str, Any]:
    """The named arrays of a folder and no others: jax arrays where a sharding is given, numpy arrays where it is None."""
    import orbax.checkpoint as ocp

    arguments = nest({
        name: ocp.RestoreArgs(restore_type=np.ndarray) if sharding is None else ocp.ArrayRestoreArgs(sharding=sharding)
        for name, sharding in shardings.items()
    })
    wanted = jax.tree.map(lambda _: 0, arguments)
    with without_orbax_log(), contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as reader:
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True)
        return named_leaves(reader.restore(folder, args=arguments))


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key (`jax.random.key`), which is stored as its data and the name of its implementation."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_key(data: Any, implementation: str, sharding: Any = None) -> jax.Array:
    """The typed random key whose data were stored."""
    key = jax.random.wrap_key_data(jnp.asarray(data), impl=implementation)
    return key if sharding is None else jax.device_put(key, sharding)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


class _NotOrbax(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "/orbax/" not in record.pathname


@contextlib.contextmanager
def without_orbax_log():
    """Orbax logs the traceback of a failed write from each of its threads; the error itself is raised to us, and becomes one line."""
    logger, silence = logging.getLogger("absl"), _NotOrbax()
    logger.addFilter(silence)
    try:
        yield
    finally:
        logger.removeFilter(silence)
