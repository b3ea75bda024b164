import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxvision.errors import ConfigError
from jaxvision.tasks.restore import flow

DEVIATION = 0.5


def mixture_velocity(x, t):
    """The exact velocity from N(0, 0.25) at t = 0 to +-1 with equal chances at t = 1."""
    t = flow.along(jnp.asarray(t), x)
    return (jnp.tanh(t * x / ((1 - t) ** 2 * DEVIATION**2)) - x) / (1 - t)


def linear_velocity(x, t):
    return -2 * x + jnp.sin(3 * flow.along(jnp.asarray(t), x))


def exact(velocity, x0, times):
    """x(t) of the trajectories from x0 at t = 0, to 1e-11, in float64 by scipy."""

    def slope(t, x):
        if velocity is mixture_velocity:
            return (np.tanh(t * x / ((1 - t) ** 2 * DEVIATION**2)) - x) / (1 - t)
        return -2 * x + np.sin(3 * t)

    return solve_ivp(slope, (0, max(times)), np.asarray(x0, np.float64), rtol=1e-11, atol=1e-12, t_eval=times, method="DOP853").y.T


def residual(h, ratio, wrong_factor=False):
    """Root mean square of the trajectory loss's residual at t = 0.4 for the exact student v(x0, t) = (x(t) - x0) / t."""
    x0, t = np.random.RandomState(0).standard_normal(64) * DEVIATION, 0.4
    x_t, x_s = exact(mixture_velocity, x0, [t, t + h])
    with jax.enable_x64(True):
        v_t, v_s = jnp.asarray((x_t - x0) / t), jnp.asarray((x_s - x0) / (t + h))
        times = jnp.full(64, t), jnp.full(64, t + h)
        mean = flow.mean_velocity(mixture_velocity, jnp.asarray(x_t), *times, ratio)
        target = v_t + h / t * (mean - v_t) if wrong_factor else flow.trajectory_target(v_t, mean, *times)
        return float(jnp.sqrt(jnp.square(v_s - target).mean()))


@pytest.mark.parametrize("ratio, wrong, factor", [(0.5, False, 8), (2 / 3, False, 8), (None, False, 4), (0.5, True, 4)])
def test_the_residual_of_the_exact_solution_vanishes_at_the_order_of_the_solver(ratio, wrong, factor):
    """h^3 with the factor h / s and a second-order step; h^2 with Euler's step, and h^2 only with the wrong factor h / t."""
    ratios = [residual(h, ratio, wrong) / residual(h / 2, ratio, wrong) for h in (0.02, 0.01)]
    assert ratios[-1] == pytest.approx(factor, rel=0.12), ratios
    assert residual(0.01, 0.5) < 0.1 * residual(0.01, ratio, wrong) or (ratio, wrong) == (0.5, False) or ratio == 2 / 3


def test_all_three_losses_vanish_for_the_exact_student_and_pass_gradients_only_where_they_should():
    # A straight flow: the teacher's velocity is constant along its trajectories, so every solver is exact.
    x0, t, s = jnp.asarray([[0.3], [-0.2]]), jnp.asarray([0.2, 0.6]), jnp.asarray([0.25, 0.65])
    teacher = lambda x, t: jnp.ones_like(x)
    losses = lambda scale: flow.distil(lambda x, t: scale * jnp.ones_like(x), teacher, x0, t, s, first=0.01, ratio=0.5)
    assert max(float(value.max()) for value in losses(1.0)) < 1e-12
    np.testing.assert_allclose(losses(3.0).align, 4 * (1 - t) ** 2, rtol=1e-6)
    np.testing.assert_allclose(losses(3.0).boundary, 4.0)
    # v_s is 3 and the target 3 - 2 h / s; its gradient is that of v_s alone.
    np.testing.assert_allclose(losses(3.0).trajectory, (2 * 0.05 / s) ** 2, rtol=1e-5)
    gradient = jax.jacobian(lambda scale: losses(scale).trajectory)(3.0)
    np.testing.assert_allclose(gradient, 2 * 2 * 0.05 / s, rtol=1e-5)


def test_samplers_converge_to_the_trajectory_at_their_orders():
    x0 = np.random.RandomState(1).standard_normal(32)
    truth = exact(linear_velocity, x0, [1.0])[0]
    at = lambda sampler: float(np.abs(jax.jit(lambda x: sampler(linear_velocity, x, eps=0.0))(jnp.asarray(x0, jnp.float32)) - truth).max())
    sampler = lambda name, steps: lambda velocity, x, eps: flow.make_sampler(name, steps, eps)(velocity, x)
    assert at(sampler("euler", 20)) / at(sampler("euler", 40)) == pytest.approx(2, rel=0.1)
    for name in flow.RATIOS:
        assert at(sampler(name, 10)) / at(sampler(name, 20)) == pytest.approx(4, rel=0.25), name
    assert at(sampler("rk45", 0)) < 3e-3


def test_the_adaptive_sampler_takes_scipys_steps():
    x0 = np.random.RandomState(2).standard_normal(16)
    theirs = solve_ivp(lambda t, x: -2 * x + np.sin(3 * t), (flow.EPS, 1), x0, rtol=1e-3, atol=1e-3)
    ours, calls = jax.jit(lambda x: flow.rk45(linear_velocity, x))(jnp.asarray(x0, jnp.float32))
    np.testing.assert_allclose(ours, theirs.y[:, -1], atol=1e-5)
    assert int(calls) == theirs.nfev


def test_euler_steps_are_one_nth_and_second_order_calls_are_counted():
    seen = []

    def velocity(x, t):
        jax.debug.callback(lambda t: seen.append(float(t[0])), t)
        return jnp.ones_like(x)

    made = flow.euler(velocity, jnp.zeros((2, 3)), 4)
    np.testing.assert_allclose(made, 1.0)  # not 1 - eps
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), flow.EPS + np.arange(4) * (1 - flow.EPS) / 4, rtol=1e-6)
    seen.clear()
    flow.rk2(velocity, jnp.zeros((2, 3)), 4).block_until_ready()
    jax.effects_barrier()
    assert len(seen) == 7


def test_perturbation_keeps_the_variance_and_one_step_is_short_of_the_end_by_eps():
    rng = np.random.RandomState(0)
    start = flow.perturb(jnp.asarray(rng.standard_normal(20_000)), jnp.asarray(rng.standard_normal(20_000)), 0.6)
    assert float(start.std()) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(flow.one_step(lambda x, t: jnp.ones_like(x), jnp.zeros((1, 2)), 0.5), 0.999)


def test_an_unknown_sampler_names_its_neighbours():
    with pytest.raises(ConfigError, match="'midpoint'"):
        flow.make_sampler("midpont", 4)
