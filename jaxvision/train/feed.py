"""From the host's batches to the mesh: a thread reads ahead, and small columns travel together.

A batch of digits is five arrays of a few hundred bytes; each transfer costs more than its bytes. `pack` lays all columns of less than
`PACKED` bytes side by side in one (B, n) uint8 array, `unpack` takes them apart again inside the jitted step.
"""

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# A column of more bytes than this travels alone, without the copy that packing costs.
PACKED = 2**20
# JAX computes in 32 bits; what numpy made wider by default is narrowed here, once.
NARROW = {"<i8": np.dtype("int32"), "<f8": np.dtype("float32")}


class Column(NamedTuple):
    """Where a packed column lies: bytes start..stop of a row, to be read as `shape` of `dtype`."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: str


Layout = tuple[Column, ...]


def _flat(batch: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in batch.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return tree


def pack(batch: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], Layout]:
    """Host batch (or a dict of such) -> ({name: array, "packed:B": (B, n) uint8}, layout). Batches of different lengths have a pack each."""
    # Sorted, so that a layout made from shapes, to compile ahead, is that of the batches to come.
    flat = {name: np.ascontiguousarray(value, NARROW.get(value.dtype.str)) for name, value in sorted(_flat(batch).items())}
    small: dict[int, list[str]] = {}
    for name, value in flat.items():
        if value.nbytes <= PACKED:
            small.setdefault(value.shape[0], []).append(name)
    out = {name: value for name, value in flat.items() if value.nbytes > PACKED}
    layout = []
    for rows, names in small.items():
        columns, start = [], 0
        for name in names:
            value = flat[name]
            stop = start + value.nbytes // max(rows, 1)
            layout.append(Column(f"{rows}:{name}", start, stop, value.shape[1:], value.dtype.str))
            columns.append(value.reshape(rows, -1).view(np.uint8))
            start = stop
        out[f"packed:{rows}"] = np.concatenate(columns, axis=1)
    return out, tuple(layout)


def batch_like(shapes: Any, sharding: jax.sharding.NamedSharding) -> tuple[dict[str, jax.ShapeDtypeStruct], Layout]:
    """(arrays, layout) that `pack` makes of a batch of these global shapes, without data: for compiling ahead."""
    arrays, layout = pack(jax.tree.map(lambda leaf: np.zeros((leaf.shape[0] // jax.process_count(), *leaf.shape[1:]), leaf.dtype), shapes))
    whole = lambda value: jax.ShapeDtypeStruct((value.shape[0] * jax.process_count(), *value.shape[1:]), value.dtype, sharding=sharding)
    return {name: whole(value) for name, value in arrays.items()}, layout


def unpack(arrays: Mapping[str, jax.Array], layout: Layout) -> dict[str, Any]:
    """The inverse of `pack`, traced."""
    packs = {name: value for name, value in arrays.items() if name.startswith("packed:")}
    flat = {name: value for name, value in arrays.items() if name not in packs}
    for column in layout:
        rows, name = column.name.split(":", 1)
        # The global batch has as many rows as all processes' packs together.
        data = packs[f"packed:{rows}"][:, column.start : column.stop]
        dtype = np.dtype(column.dtype)
        if dtype.kind == "b":
            value = data != 0
        else:
            grouped = data if dtype.itemsize == 1 else data.reshape(data.shape[0], -1, dtype.itemsize)
            value = jax.lax.bitcast_convert_type(grouped, jnp.dtype(dtype))
        flat[name] = value.reshape(data.shape[0], *column.shape)
    return _nested(flat)


def to_mesh(arrays: Mapping[str, np.ndarray], sharding: jax.sharding.NamedSharding) -> dict[str, jax.Array]:
    """This process's rows -> global arrays, batch axis sharded."""
    if jax.process_count() == 1:
        return jax.device_put(dict(arrays), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in arrays.items()}


class Item(NamedTuple):
    """One batch: on the mesh, how to unpack it, its host-side indices, and the stream's position after it."""

    arrays: dict[str, jax.Array]
    layout: Layout
    index: np.ndarray
    position: int


class Feed:
    """Iterates over `Item`s, read `depth` batches ahead by a thread. An error in the stream is raised at the batch where it happened."""

    def __init__(self, stream: Iterator[Mapping[str, Any]], sharding: jax.sharding.NamedSharding, depth: int = 2):
        self.stream, self._sharding = stream, sharding
        self._queue: queue.Queue = queue.Queue(maxsize=max(1, depth))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for batch in self.stream:
                arrays, layout = pack(batch)
                index = batch["index"] if "index" in batch else next(iter(batch.values()))["index"]
                if not self._put(Item(to_mesh(arrays, self._sharding), layout, index, getattr(self.stream, "position", 0))):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Item:
        item = self._queue.get()
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        if hasattr(self.stream, "close"):
            self.stream.close()
