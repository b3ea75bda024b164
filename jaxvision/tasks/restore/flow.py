"""Rectified flows between a damaged picture and its clean one: paths, samplers, and distillation to one step along the teacher's own trajectory.

From OFTSR (Zhu et al. 2024, "One-Step Flow for Image Super-Resolution with Tunable Fidelity-Realism Trade-offs", arXiv 2412.09465). Time runs
from 0, the perturbed damaged picture, to 1, the clean one. `velocity(x, t)` takes x (B, …) and t (B,).

The student v(x0, t) is to satisfy x0 + t v(x0, t) = x(t), the teacher's trajectory from x0. One step of a solver from t to s = t + h gives
x(s) = x(t) + h w with w the teacher's mean velocity, and division by s gives v(x0, s) = v(x0, t) + (h / s) (w - v(x0, t)): the factor is h / s.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError, nearest

EPS = 1e-3
Velocity = Callable[[Array, Array], Array]


def perturb(condition: Float[Array, "b ..."], noise: Float[Array, "b ..."], strength: float) -> Float[Array, "b ..."]:
    """x0 = sqrt(1 - strength^2) condition + strength noise: the variance of a normalized picture stays."""
    return np.sqrt(1 - strength**2).astype(np.float32) * condition + strength * noise


def along(t: Float[Array, "b"], x: Array) -> Array:
    """`t` with as many axes as `x`."""
    return t.reshape(t.shape + (1,) * (x.ndim - 1))


def interpolate(x0: Float[Array, "b ..."], x1: Float[Array, "b ..."], t: Float[Array, "b"]) -> Float[Array, "b ..."]:
    """t x1 + (1 - t) x0."""
    t = along(t, x0)
    return t * x1 + (1 - t) * x0


def euler(velocity: Velocity, x0: Array, steps: int, *, eps: float = EPS) -> Array:
    """`steps` steps of 1 / steps from t = eps + i (1 - eps) / steps."""

    def step(i, x):
        t = eps + i * (1 - eps) / steps
        return x + velocity(x, jnp.full(x.shape[:1], t)) / steps

    return jax.lax.fori_loop(0, steps, step, x0)


def rk2(velocity: Velocity, x0: Array, steps: int, *, ratio: float = 0.5, eps: float = EPS) -> Array:
    """The second-order family: a look ahead by `ratio` of the step (1/2 midpoint, 2/3 Ralston, 1 Heun); the last interval is an Euler step.

    2 steps - 1 calls of the network.
    """
    h = (1 - eps) / steps

    def step(i, x):
        t = jnp.full(x.shape[:1], eps + i * h)
        return x + h * mean_velocity(velocity, x, t, t + h, ratio)

    x = jax.lax.fori_loop(0, steps - 1, step, x0)
    return x + h * velocity(x, jnp.full(x.shape[:1], 1 - h))


def mean_velocity(velocity: Velocity, x: Array, t: Float[Array, "b"], s: Float[Array, "b"], ratio: float | None = 0.5) -> Array:
    """The velocity of one solver step from t to s, an estimate of the mean over [t, s] with an error of h^2; `ratio` None: Euler's, with one of h."""
    first = velocity(x, t)
    if ratio is None:
        return first
    second = velocity(x + ratio * along(s - t, x) * first, ratio * s + (1 - ratio) * t)
    return first + (second - first) / (2 * ratio)


# Dormand and Prince's pair of orders 5 and 4, as scipy's RK45 has it: nodes, rows of the tableau, weights of the fifth order and of the error.
_NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1)
_ROWS = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_FIFTH = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_ERROR = (-71 / 57600, 0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
_SAFETY, _SLOWEST, _FASTEST = 0.9, 0.2, 10.0


class _Adaptive(NamedTuple):
    t: Array
    x: Array
    slope: Array
    h: Array
    rejected: Array
    calls: Array


def rk45(
    velocity: Velocity, x0: Array, *, rtol: float = 1e-3, atol: float = 1e-3, eps: float = EPS, most: int = 1000
) -> tuple[Array, Array]:
    """(x at 1, calls of the network) of the adaptive method of Dormand and Prince, with scipy's choice of the first step and of the next ones.

    One step size for the whole batch: the error is the root mean square over all of it, of errors divided by atol + rtol max(|x|, |new x|).
    `most` bounds the calls.
    """
    norm = lambda x: jnp.sqrt(jnp.square(x).mean())
    at = lambda x, t: velocity(x, jnp.full(x.shape[:1], t))
    combine = lambda weights, slopes: sum(w * k for w, k in zip(weights, slopes) if w)

    start = jnp.float32(eps)
    slope = at(x0, start)
    scale = atol + rtol * jnp.abs(x0)
    d0, d1 = norm(x0 / scale), norm(slope / scale)
    h0 = jnp.minimum(jnp.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / jnp.maximum(d1, 1e-30)), 1 - eps)
    d2 = norm((at(x0 + h0 * slope, start + h0) - slope) / scale) / h0
    h1 = jnp.where(jnp.maximum(d1, d2) <= 1e-15, jnp.maximum(1e-6, 1e-3 * h0), (0.01 / jnp.maximum(jnp.maximum(d1, d2), 1e-15)) ** 0.2)
    first = _Adaptive(start, x0, slope, jnp.minimum(jnp.minimum(100 * h0, h1), 1 - eps), jnp.bool_(False), jnp.int32(2))

    def step(now: _Adaptive) -> _Adaptive:
        last = now.t + now.h >= 1
        h = jnp.where(last, 1 - now.t, now.h)
        slopes = [now.slope]
        for node, row in zip(_NODES[1:], _ROWS[1:]):
            slopes.append(at(now.x + h * combine(row, slopes), now.t + node * h))
        x = now.x + h * combine(_FIFTH, slopes)
        t = jnp.where(last, 1.0, now.t + h)
        slopes.append(at(x, t))
        error = norm(h * combine(_ERROR, slopes) / (atol + rtol * jnp.maximum(jnp.abs(now.x), jnp.abs(x))))
        good = error < 1
        grown = jnp.where(error == 0, _FASTEST, jnp.minimum(_FASTEST, _SAFETY * jnp.maximum(error, 1e-30) ** -0.2))
        # After a rejection the next step may not grow.
        factor = jnp.where(good, jnp.where(now.rejected, jnp.minimum(1.0, grown), grown), jnp.maximum(_SLOWEST, _SAFETY * error**-0.2))
        keep = lambda new, old: jnp.where(good, new, old)
        return _Adaptive(keep(t, now.t), keep(x, now.x), keep(slopes[-1], now.slope), h * factor, ~good, now.calls + 6)

    done = jax.lax.while_loop(lambda now: (now.t < 1) & (now.calls + 6 <= most), step, first)
    return done.x, done.calls


def one_step(velocity: Velocity, x0: Array, t: float, *, eps: float = EPS) -> Array:
    """x0 + (1 - eps) v(x0, t): what a student is used by; t is its knob between fidelity (0) and realism (1). A teacher takes t = eps."""
    return x0 + (1 - eps) * velocity(x0, jnp.full(x0.shape[:1], t))


RATIOS = {"midpoint": 0.5, "ralston": 2 / 3, "heun": 1.0}


def make_sampler(name: str, steps: int, eps: float = EPS) -> Callable[[Velocity, Array], Array]:
    """"euler", "midpoint", "ralston", "heun" or "rk45" (whose steps are its own) as a function (velocity, x0) -> x1. Raises ConfigError."""
    if name == "rk45":
        return lambda velocity, x0: rk45(velocity, x0, eps=eps)[0]
    if name == "euler":
        return functools.partial(euler, steps=steps, eps=eps)
    if name in RATIOS:
        return functools.partial(rk2, steps=steps, ratio=RATIOS[name], eps=eps)
    raise ConfigError(f"task.sampler {name!r} is unknown; {nearest(name, ('euler', 'rk45', *RATIOS))}")


class Distillation(NamedTuple):
    """Three losses an example: of the trajectory, of its beginning, and of the student's velocity against the teacher's where the student is."""

    trajectory: Float[Array, "b"]
    boundary: Float[Array, "b"]
    align: Float[Array, "b"]


def trajectory_target(v_t: Array, teacher: Array, t: Float[Array, "b"], s: Float[Array, "b"]) -> Array:
    """v(x0, s) from v(x0, t) and the teacher's mean velocity over [t, s]: v_t + (h / s) (teacher - v_t), h = s - t."""
    return v_t + along((s - t) / s, v_t) * (teacher - v_t)


def distil(
    student: Velocity, teacher: Velocity, x0: Float[Array, "b ..."], t: Float[Array, "b"], s: Float[Array, "b"], *, first: float, ratio: float | None
) -> Distillation:
    """The losses of one batch of starts; the clean pictures take no part.

    Args:
      student: of the trainable parameters; always called at x0.
      teacher: no gradient passes through it.
      t, s: 0 < t < s <= 1, a pair an example.
      first: the smallest t, where student and teacher are to agree.
      ratio: of the solver step, see `mean_velocity`.
    """
    stop, mean = jax.lax.stop_gradient, lambda x: x.reshape(len(x), -1).mean(1)
    v_t, v_s = student(x0, t), student(x0, s)
    here = x0 + along(t, x0) * stop(v_t)
    wanted = stop(mean_velocity(teacher, here, t, s, ratio))
    begin = jnp.full(t.shape, first)
    return Distillation(
        mean(jnp.square(v_s - stop(trajectory_target(v_t, wanted, t, s)))),
        mean(jnp.square(student(x0, begin) - stop(teacher(x0, begin)))),
        (1 - t) ** 2 * mean(jnp.square(v_t - wanted)),
    )
