"""Averaged weights: an exponential moving average over updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxvision.errors import ConfigError, nearest

# The largest decay at update `step`, counted from 0.
WARMUPS: dict[str, Callable[[Any], Any]] = {
    "none": lambda step: 1.0,
    # TensorFlow's ExponentialMovingAverage with num_updates, as EfficientNet was trained.
    "tf": lambda step: (1 + step) / (10 + step),
    # timm's ModelEmaV3 with its defaults: 0.999 is reached after 31,600 updates.
    "power": lambda step: 1 - (1 + step) ** (-2 / 3),
}


def ema_update(old: Any, new: Any, decay: float, step: Any, *, warmup: str = "none") -> Any:
    """decay old + (1 - decay) new, leaf by leaf, in float32 and kept in the dtype of `old`; leaves that are no floats are `new`'s.

    Args:
      decay: share of the old average kept an update.
      step: updates before this one; read only with a warm-up.
      warmup: "none" keeps the decay constant, so the average begins at the first weights it was given; "tf" is at most (1 + step) / (10 + step)
        and "power" at most 1 - (1 + step)^(-2/3), under which the first weights are soon forgotten.

    Raises ConfigError for an unknown warm-up.
    """
    if warmup not in WARMUPS:
        raise ConfigError(f"the warm-up {warmup!r} of averaged weights is unknown; {nearest(warmup, WARMUPS)}")
    keep = jnp.minimum(jnp.float32(decay), WARMUPS[warmup](jnp.asarray(step, jnp.float32)))

    def average(a, b):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return b
        return (keep * a.astype(jnp.float32) + (1 - keep) * b.astype(jnp.float32)).astype(a.dtype)

    return jax.tree.map(average, old, new)
