"""Learning rates over a run: warm-up, then one of `SCHEDULES`, all of them optax's formulas.

Step s counts updates from 0; the rate at s is the one that update s uses. With W warm-up steps the rate at s < W is
lr_start + (lr - lr_start) s / W, and the schedule proper sees s - W.
"""

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxvision.errors import ConfigError
from jaxvision.optim.settings import choose, number, setting

Schedule = Callable[[Any], Any]


class Run(NamedTuple):
    """What a schedule knows: the section, the highest and the last rate, the steps of warm-up and of the whole, and how to read a length."""

    config: Mapping[str, Any]
    peak: float
    end: float
    warmup: int
    total: int
    steps_of: Callable[[str, Any], int]

    @property
    def left(self) -> int:
        return self.total - self.warmup


def to_steps(key: str, value: Any, *, total_steps: int, steps_per_epoch: float) -> int:
    """Steps that a length in the config means: an int is steps, a float below 1 a share of the run, "5ep" epochs. Raises ConfigError otherwise."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*ep", value.strip())):
        return round(float(match[1]) * steps_per_epoch)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, float) and 0 <= value < 1:
        return round(value * total_steps)
    if isinstance(value, float) and value >= 1 and value.is_integer():
        return int(value)
    raise ConfigError(f"optim.{key} takes steps (500), a share of the run (0.05) or epochs ('5ep'), got {value!r}")


def _constant(run: Run) -> Schedule:
    return optax.constant_schedule(run.peak)


def _cosine(run: Run) -> Schedule:
    """Half a cosine from lr to lr_end (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts)."""
    return optax.cosine_decay_schedule(run.peak, run.left, alpha=run.end / run.peak if run.peak else 0.0)


def _linear(run: Run) -> Schedule:
    return optax.linear_schedule(run.peak, run.end, run.left)


def _polynomial(run: Run) -> Schedule:
    return optax.polynomial_schedule(run.peak, run.end, number(run.config, "power"), run.left)


def _exponential(run: Run) -> Schedule:
    """lr decay_factor^(t / decay_every), in stairs unless `staircase` is false; never below lr_end."""
    every = run.steps_of("decay_every", setting(run.config, "decay_every"))
    if every < 1:
        raise ConfigError("optim.decay_every must be at least one step")
    factor = number(run.config, "decay_factor", 0.97)
    return optax.exponential_decay(run.peak, every, factor, staircase=bool(setting(run.config, "staircase")), end_value=run.end)


def _step(run: Run) -> Schedule:
    """Times decay_factor (0.1) at each milestone, counted from the beginning of the run."""
    factor = number(run.config, "decay_factor", 0.1)
    steps = [run.steps_of("milestones", value) for value in setting(run.config, "milestones", ())]
    if not steps or any(b <= a for a, b in itertools.pairwise(steps)) or steps[0] < run.warmup or steps[-1] >= run.total:
        raise ConfigError(
            f"optim.milestones takes increasing steps between the warm-up's {run.warmup} and the run's {run.total}, "
            f"got {setting(run.config, 'milestones')!r} = steps {steps}"
        )
    boundaries = [milestone - run.warmup for milestone in steps]
    return optax.join_schedules([optax.constant_schedule(run.peak * factor**k) for k in range(len(steps) + 1)], boundaries)


def _cool_down(run: Run, before: Schedule, default: Any) -> Schedule:
    length = run.steps_of("cooldown", setting(run.config, "cooldown", default))
    if length > run.left:
        raise ConfigError(f"optim.cooldown is {length} steps, but only {run.left} of the run's {run.total} are left after warm-up")
    if length == 0:
        return before
    start = run.left - length
    return optax.join_schedules([before, optax.linear_schedule(float(before(start)), run.end, length)], [start])


def _wsd(run: Run) -> Schedule:
    """Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): constant, then linear to lr_end over `cooldown`, by default the last fifth."""
    return _cool_down(run, optax.constant_schedule(run.peak), 0.2)


def _rsqrt(run: Run) -> Schedule:
    """lr / sqrt(1 + t / timescale), then linear to lr_end over `cooldown`, by default none (Zhai et al. 2022, arXiv 2106.04560)."""
    timescale = number(run.config, "timescale", least=1)
    # During warm-up the joined schedule evaluates this one too, before its beginning.
    return _cool_down(run, lambda step: run.peak * jax.lax.rsqrt(1 + jnp.maximum(step, 0.0) / timescale), 0)


SCHEDULES: dict[str, Callable[[Run], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "polynomial": _polynomial,
    "exponential": _exponential,
    "step": _step,
    "wsd": _wsd,
    "rsqrt": _rsqrt,
}
SCALINGS = {"linear": 1.0, "sqrt": 0.5}


def peak_lr(optim_config: Mapping[str, Any], batch_size: int) -> float:
    """The highest rate of a run: `lr`, times (batch_size / lr_batch) or its root where `lr_batch` is given."""
    exponent = choose(SCALINGS, setting(optim_config, "lr_scaling"), "lr_scaling")
    reference = setting(optim_config, "lr_batch")
    factor = 1.0 if reference is None else (batch_size / number(optim_config, "lr_batch", least=1)) ** exponent
    return number(optim_config, "lr") * factor


def make_schedule(
    optim_config: Mapping[str, Any], *, total_steps: int, steps_per_epoch: float, batch_size: int, offset: int = 0
) -> Schedule:
    """The function step -> learning rate that config.optim asks for. A phase of a run has a length and an `offset`, added to the step, of its own.

    Raises ConfigError: an unknown schedule, a length that is none, a warm-up that leaves no step of the run, a last rate above the highest.
    """
    steps_of = lambda key, value: to_steps(key, value, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    make = choose(SCHEDULES, setting(optim_config, "schedule"), "schedule")
    peak, start, end = peak_lr(optim_config, batch_size), number(optim_config, "lr_start"), number(optim_config, "lr_end")
    warmup = steps_of("warmup", setting(optim_config, "warmup"))
    if warmup >= total_steps and warmup:
        raise ConfigError(f"optim.warmup={setting(optim_config, 'warmup')!r} is {warmup} steps, but the whole run has {total_steps}")
    if end > peak:
        raise ConfigError(f"optim.lr_end={end:g} is above the highest rate, {peak:g}")
    schedule = make(Run(optim_config, peak, end, warmup, total_steps, steps_of))
    schedule = optax.join_schedules([optax.linear_schedule(start, peak, warmup), schedule], [warmup]) if warmup else schedule
    return (lambda step: schedule(step + offset)) if offset else schedule
