"""Layers of other sizes than their model's fields say: how a network that was cut, grown or designed layer by layer is the same module.

A layer asks for each size that it is told, and for each decision that it takes by comparing shapes:

    features = resizable(self, "features", self.features)
    if resizable(self, "skip", y.shape == x.shape): …

and gets its own value back, unless the network runs inside `resized`, whose table then answers: {path of the layer: {name: value}}. Decisions are
in the table too, because two widths that differed may be equal after a cut, and the other way round.
"""

import contextlib
import contextvars
import types
from collections.abc import Iterator, Mapping
from typing import Any

from flax import linen as nn

Table = Mapping[str, Mapping[str, Any]]
_TABLE: contextvars.ContextVar[Table] = contextvars.ContextVar("table", default=types.MappingProxyType({}))
_RECORD: contextvars.ContextVar[dict[str, dict[str, Any]] | None] = contextvars.ContextVar("record", default=None)


def resizable(module: nn.Module, name: str, value: Any) -> Any:
    """`value`, or what the table around says of this module under this name."""
    if module.scope is None:
        return value
    path = "/".join(module.path)
    chosen = _TABLE.get().get(path, {}).get(name, value)
    if (record := _RECORD.get()) is not None:
        record.setdefault(path, {})[name] = chosen
    return chosen


@contextlib.contextmanager
def resized(table: Table) -> Iterator[None]:
    """Networks initialized or applied inside have these sizes."""
    token = _TABLE.set(table)
    try:
        yield
    finally:
        _TABLE.reset(token)


@contextlib.contextmanager
def recorded() -> Iterator[dict[str, dict[str, Any]]]:
    """The table of all that is asked inside, as it was answered."""
    record: dict[str, dict[str, Any]] = {}
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)
