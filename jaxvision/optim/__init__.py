"""The update of a step: optimizers, learning-rate schedules, gradient rules, averaged weights, and measures of sharpness.

Optimizers and schedules are optax's; what is written here is how a config names them, which leaves they decay, scale and leave alone, and the
sharpness-aware rules. The keys of config.optim and their defaults are `settings.DEFAULTS`. Names are imported at first use.
"""

import importlib

_HOMES = {
    "make_schedule": "jaxvision.optim.schedules",
    "make_optimizer": "jaxvision.optim.optimizers",
    "layer_of": "jaxvision.optim.layers",
    "make_rule": "jaxvision.optim.rules",
    "ema_update": "jaxvision.optim.ema",
    "dominant_eigenvalue": "jaxvision.optim.sharpness",
    "gaussian_flatness": "jaxvision.optim.sharpness",
    "landscape": "jaxvision.optim.sharpness",
    "active_share": "jaxvision.optim.sharpness",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'jaxvision.optim' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__():
    return [*globals(), *__all__]
