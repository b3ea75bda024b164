"""Deformable convolution against torchvision, and its square form by gathers and by shifts."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.deform_conv import bounded, deform_conv, rounded, square_deform_conv, square_offsets
from jaxvision.kernels.depthwise_conv import depthwise_conv
from tests.kernels.test_convolutions import normal
from tests.reference_weights import relative_error

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "deform_conv.npz")
# As in tests/golden/make_torchvision_deform.py.
CASES = {
    "full": ((7, 9, 4), (3, 3, 5), 1, 1, 1, 1, 1, False),
    "stride": ((8, 9, 4), (3, 2, 4), 2, (1, 0), 1, 2, 1, False),
    "depthwise": ((6, 5, 4), (3, 3, 4), 1, 1, 1, 4, 1, False),
    "modulated": ((7, 6, 4), (2, 3, 6), 1, (2, 1), 2, 2, 2, True),
}


@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_agree_with_torchvision(case):
    (h, w, c), (kh, kw, d), stride, padding, dilation, groups, parts, masked = CASES[case]
    random, sides = np.random.RandomState(0), GOLDEN[f"{case}/y"].shape[1:3]
    x = random.standard_normal((2, h, w, c)).astype(np.float32)
    offsets = (2 * random.standard_normal((2, *sides, 2 * parts * kh * kw))).astype(np.float32)
    kernel = random.standard_normal((kh, kw, c // groups, d)).astype(np.float32)
    mask = random.uniform(size=(2, *sides, parts * kh * kw)).astype(np.float32) if masked else None

    @jax.jit
    def run(x, offsets, kernel):
        op = functools.partial(deform_conv, strides=stride, padding=padding, dilation=dilation, groups=groups, mask=mask)
        y, pull = jax.vjp(op, x, offsets, kernel)
        return (y, *pull(2 * y))

    for name, ours in zip(("y", "dx", "doffsets", "dkernel"), run(x, offsets, kernel)):
        assert relative_error(ours, GOLDEN[f"{case}/{name}"]) < 2e-6, name


@pytest.mark.parametrize("scale, dilation", [(0.0, 1), (1.0, 2), (3.0, 4)])
def test_a_constant_scale_is_a_dilated_convolution(scale, dilation):
    x, kernel = normal(0, 2, 9, 8, 4), normal(1, 3, 3, 1, 4)
    expected = depthwise_conv(x, kernel, 1, dilation, dilation, implementation="reference")
    for implementation in ("reference", "shifted"):
        ours = square_deform_conv(x, jnp.full((2, 9, 8, 1), scale), kernel, 4, implementation=implementation)
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_the_square_form_by_shifts_agrees_with_gathers_in_value_and_in_all_gradients():
    x, kernel, scale = normal(0, 2, 7, 6, 3), normal(1, 3, 3, 1, 3), 4 * jax.random.uniform(jax.random.key(0), (2, 7, 6, 1))

    def run(implementation):
        y, pull = jax.vjp(functools.partial(square_deform_conv, bound=4, implementation=implementation), x, scale, kernel)
        return (y, *pull(jnp.cos(y)))

    by_offsets = deform_conv(x, square_offsets(scale), kernel, padding=1, groups=3)
    ours, gathered, chosen = jax.jit(lambda: (run("shifted"), run("reference"), run(None)))()
    np.testing.assert_allclose(gathered[0], by_offsets, atol=1e-5)
    for a, b, c in zip(ours, gathered, chosen):
        np.testing.assert_allclose(a, b, atol=2e-5)
        np.testing.assert_allclose(c, b, atol=2e-5)


def test_the_square_form_has_directional_derivatives_and_hessian_vector_products():
    """Forward over reverse, as the sharpness of a network that contains it is measured."""
    at = normal(0, 1, 5, 6, 2), 3 * jax.random.uniform(jax.random.key(0), (1, 5, 6, 1)), normal(1, 3, 3, 1, 2)
    moved = tuple(normal(2 + i, *v.shape) for i, v in enumerate(at))

    @functools.partial(jax.jit, static_argnums=0)
    def products(run):
        loss = lambda arrays: jnp.square(run(*arrays)).sum()
        return jax.jvp(run, at, moved)[1], jax.jvp(jax.grad(loss), (at,), (moved,))[1]

    by_gathers = lambda x, scale, kernel: deform_conv(x, square_offsets(scale), kernel, padding=1, groups=2)
    ours, expected = products(functools.partial(square_deform_conv, bound=4)), products(by_gathers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max())), ours, expected)


@pytest.mark.parametrize("value, low", [(0.0, 0), (-3.0, -8)])
def test_at_whole_radii_the_form_by_shifts_has_the_derivative_of_growing_ones(value, low):
    x, kernel, scale = normal(0, 1, 6, 7, 3), normal(1, 3, 3, 1, 3), jnp.full((1, 6, 7, 1), value)
    run = lambda scale, name: square_deform_conv(x, scale, kernel, 4, low, implementation=name)

    @jax.jit
    def both():
        y, slope = jax.jvp(functools.partial(run, name="shifted"), (scale,), (jnp.ones_like(scale),))
        return y, slope, run(scale, "reference"), (run(scale + 1e-3, "reference") - run(scale, "reference")) / 1e-3

    y, slope, expected, difference = both()
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_allclose(slope, difference, atol=2e-2)


def test_on_tpus_the_square_form_has_no_gather():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 4), (1, 8, 8, 1), (3, 3, 1, 4))]
    traced = jax.jit(jax.grad(lambda *arrays: square_deform_conv(*arrays).sum(), (0, 1, 2))).trace(*shapes)
    assert "gather" not in traced.lower(lowering_platforms=("tpu",)).as_text() and "gather" in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_bounds_pass_the_gradient_at_both_ends_and_rounding_passes_it_through():
    values = jnp.array([-0.1, 0.0, 3.0, 8.0, 8.1])
    np.testing.assert_array_equal(jax.grad(lambda v: bounded(v, 0.0, 8.0).sum())(values), [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(jax.grad(lambda v: (rounded(v) * jnp.arange(5)).sum())(values), jnp.arange(5))
    np.testing.assert_array_equal(rounded(jnp.array([0.4, 1.6])), [0, 2])


def test_offsets_of_another_shape_are_refused():
    x, kernel = jnp.zeros((1, 5, 5, 4)), jnp.zeros((3, 3, 4, 2))
    with pytest.raises(ModelError, match="offsets of 9 taps"):
        deform_conv(x, jnp.zeros((1, 5, 5, 18)), kernel)
    with pytest.raises(ModelError, match="mask"):
        deform_conv(x, jnp.zeros((1, 5, 5, 18)), kernel, padding=1, mask=jnp.zeros((1, 5, 5, 3)))
    with pytest.raises(ModelError, match="no implementation 'shift'"):
        square_deform_conv(x, jnp.zeros((1, 5, 5, 1)), jnp.zeros((3, 3, 1, 4)), implementation="shift")
