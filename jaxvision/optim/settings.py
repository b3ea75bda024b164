"""The keys of config.optim: one table of defaults, and the checks that every maker shares."""

import re
from collections.abc import Mapping
from typing import Any

from jaxvision.errors import ConfigError, nearest

# None: the optimizer's or the rule's own default, which its function states.
DEFAULTS: dict[str, Any] = {
    "name": "adamw",
    # learning rate
    "lr": 1e-3,  # the highest
    "lr_start": 0.0,  # before warm-up
    "lr_end": 0.0,  # at the last step
    "lr_batch": None,  # `lr` is for this many examples a step and grows with batch_size; None: `lr` as it is written
    "lr_scaling": "linear",  # or "sqrt": how it grows
    "schedule": "cosine",
    "warmup": 0,  # steps, a share of the run (a float below 1), or epochs ("5ep")
    "cooldown": None,  # the same, of "wsd" and "rsqrt": linear to lr_end at the end of the run
    "power": 1.0,  # of "polynomial"
    "timescale": 10_000,  # steps, of "rsqrt"
    "milestones": None,  # increasing steps, shares or epochs, of "step"
    "decay_every": "1ep",  # of "exponential"
    "decay_factor": None,  # of "step" and "exponential"
    "staircase": True,  # of "exponential"
    # optimizer
    "b1": None,
    "b2": None,
    "b3": None,
    "eps": None,
    "momentum": None,
    "dampening": None,  # of "sgd" and "momentum": share of each gradient but the first that the momentum leaves out
    "mu_dtype": None,  # of first moments: "bfloat16" halves them
    "trust": None,  # trust coefficient of "lars" and "larc"
    "clip_rms": 1.0,  # of "adafactor": largest root mean square of a leaf's update
    "scale_by_parameter": False,  # of "adafactor"
    # which leaves
    "weight_decay": 0.0,
    "weight_decay_end": None,  # half a cosine from `weight_decay` to here over the run; None: constant
    "decay": "decoupled",  # or "l2": added to the gradient before the optimizer sees it, as PyTorch's SGD, Adam and RMSprop do
    "no_decay": None,  # regular expressions; None: optimizers.NO_DECAY
    "decay_1d": False,  # whether leaves of at most one axis decay
    "layer_decay": 1.0,
    "freeze": (),  # regular expressions
    "keep_zeros": False,  # entries of kernels that are zero stay zero: training under a mask
    # gradient rule
    "rule": "plain",
    "groups": 1,
    "rho": 0.05,
    "rho_min": None,  # of "gsam", whose radius follows the learning rate; None: `rho`
    "rho_max": None,
    "alpha": 0.0,  # of "gsam"
    "eta": 0.01,  # of "asam"
    # done by the task
    "clip": None,
    "clip_each": None,  # largest norm of each leaf's gradient, before `clip`
    "ema": None,
    "ema_warmup": "none",  # or "tf", "power": ema.WARMUPS
    "accumulate": 1,
}


def setting(optim_config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The config's value; where it is absent or None, DEFAULTS'; where that is None too, `default`."""
    for value in (optim_config.get(key), DEFAULTS[key]):
        if value is not None:
            return value
    return default


def check_keys(optim_config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key that nothing reads. Sections in the section belong to players and are checked with them."""
    for key, value in optim_config.items():
        if key not in DEFAULTS and not hasattr(value, "items"):
            raise ConfigError(f"config key 'optim.{key}' is unknown; {nearest(key, DEFAULTS)}")


def choose(table: Mapping[str, Any], name: str, key: str) -> Any:
    """table[name], or ConfigError naming the neighbours of what config.optim.<key> says."""
    if name not in table:
        raise ConfigError(f"optim.{key}={name!r} is unknown; {nearest(name, table)}")
    return table[name]


def number(optim_config: Mapping[str, Any], key: str, default: Any = None, *, least: float = 0.0) -> float:
    """A setting as a float. Raises ConfigError when it is no number or below `least`."""
    value = setting(optim_config, key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise ConfigError(f"optim.{key} takes a number of at least {least:g}, got {value!r}")
    return float(value)


def patterns(optim_config: Mapping[str, Any], key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A setting as a tuple of regular expressions; one string is one expression. Raises ConfigError for one that does not compile."""
    value = setting(optim_config, key, default)
    value = (value,) if isinstance(value, str) else tuple(value)
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"optim.{key}: {pattern!r} is not a regular expression: {error}") from error
    return value
