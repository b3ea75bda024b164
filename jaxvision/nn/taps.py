"""Looking inside a network: named intermediate values, kept only when somebody asks."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn


def tap(module: nn.Module, name: str, value: Callable[[], Any]) -> None:
    """Sows `value()` as `name` into the collection "taps"; it is not even computed unless the caller made "taps" mutable, nor in `init`.

    `logits, kept = model.apply(variables, image, mutable="taps")` returns them as `kept["taps"]`, a tuple a name.
    """
    if module.is_mutable_collection("taps") and not module.is_initializing():
        module.sow("taps", name, value())
