"""Looking inside a network: named intermediate values, kept only when somebody asks; and running it from the middle."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import Array

from jaxvision.errors import ModelError, nearest


def tap(module: nn.Module, name: str, value: Callable[[], Any]) -> None:
    """Sows `value()` as `name` into the collection "taps"; it is not even computed unless the caller made "taps" mutable, nor in `init`.

    `logits, kept = model.apply(variables, image, mutable="taps")` returns them as `kept["taps"]`, a tuple a name.
    """
    if module.is_mutable_collection("taps") and not module.is_initializing():
        module.sow("taps", name, value())


def watched(module: nn.Module) -> bool:
    """Whether somebody looks at intermediate values, or `init` runs: then every layer is run by itself, whatever could be one op."""
    return module.is_mutable_collection("taps") or module.is_mutable_collection("intermediates")


def run_watched(
    model: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    watch: Sequence[str] = (),
    replace: Mapping[str, Array] | None = None,
    mutable: Sequence[str] = (),
    **keys: Any,
) -> tuple[Any, dict[str, Array], dict[str, Any]]:
    """(what the network returns, {name: output of that module}, new values of `mutable` collections), in one pass.

    A module is named by its '/'-joined path in the parameters, "layer3_5" or "blocks_8/attn"; where it is called several times, its last output is
    meant. Any network can be watched and none has to know: this is how a method takes features of two families at once.

    Args:
      replace: outputs that take the place of what these modules would give. They are not run, and what came before them has no effect where the
        network is a chain: the rest of the network is run from there. The compiler leaves out what has no effect.

    Raises:
      ModelError: no module of that name was called; blocks that are scanned over have no names of their own.
    """
    replace, called = dict(replace or {}), set()
    wanted = {*watch, *replace}

    def kept(module: nn.Module, method: str) -> bool:
        called.add("/".join(module.path))
        return method == "__call__" and "/".join(module.path) in wanted

    def answer(call, args, kwargs, context):
        if context.method_name == "__call__" and (path := "/".join(context.module.path)) in replace:
            return replace[path]
        return call(*args, **kwargs)

    with nn.intercept_methods(answer) if replace else contextlib.nullcontext():
        out, new = model.apply(variables, *args, capture_intermediates=kept, mutable=["intermediates", *mutable], **keys)
    new = dict(new)
    kept_values = new.pop("intermediates", {})
    values = {}
    for name in wanted:
        place: Any = kept_values
        for part in (*name.split("/"), "__call__"):
            place = place.get(part) if isinstance(place, Mapping) else None
        if not place:
            raise ModelError(f"{type(model).__name__} calls no module {name!r}; {nearest(name, sorted(called - {''}))}")
        values[name] = place[-1]
    return out, {name: values[name] for name in watch}, new
