"""Grouped convolutions of a program, read, rebuilt alone and priced by their listings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.train.preflight import hlo
from jaxvision.train.preflight.grouped import grouped_convolutions, grouped_cycles, rebuilt
from jaxvision.train.preflight.schedules import schedule

NHWC = ("NHWC", "HWIO", "NHWC")


def depthwise(image, kernel, stride=1, dilation=1):
    return jax.lax.conv_general_dilated(
        image, kernel, (stride, stride), "SAME", rhs_dilation=(dilation, dilation), dimension_numbers=NHWC, feature_group_count=image.shape[-1]
    )


def of_program(function, *arrays):
    """(the convolution, its operands' shapes) of a program of one convolution."""
    module = hlo.parse(jax.jit(function).lower(*arrays).compiler_ir("hlo").as_hlo_text())
    (found,) = (op for ops in module.computations.values() for op in ops.values() if op.opcode == "convolution")
    home = module.computations[found.computation]
    return (found, *(home[name].shapes[0] for name in found.operands))


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_and_its_gradient_of_the_kernel_are_rebuilt_as_they_stand_in_the_program(stride, dilation):
    random = np.random.RandomState(0)
    image, kernel = jnp.asarray(random.randn(2, 9, 7, 4), jnp.float32), jnp.asarray(random.randn(3, 5, 1, 4), jnp.float32)
    forward = lambda image, kernel: depthwise(image, kernel, stride, dilation)
    again, shapes = rebuilt(*of_program(forward, image, kernel))
    assert [shape.shape for shape in shapes] == [image.shape, kernel.shape]
    np.testing.assert_allclose(again(image, kernel), forward(image, kernel), rtol=1e-5, atol=1e-5)

    cotangent = jnp.asarray(random.randn(*forward(image, kernel).shape), jnp.float32)
    gradient = lambda image, cotangent: jax.linear_transpose(lambda kernel: forward(image, kernel), kernel)(cotangent)[0]
    found = of_program(gradient, image, cotangent)
    assert "batch_group_count=4" in found[0].attributes or "feature_group_count=4" in found[0].attributes
    again, _ = rebuilt(*found)
    # As the program has it, perhaps before its dimensions are put in the kernel's order.
    np.testing.assert_allclose(np.sort(again(image, cotangent).ravel()), np.sort(gradient(image, cotangent).ravel()), rtol=1e-4, atol=1e-4)


def test_a_kernel_that_is_read_backwards_is_mirrored():
    image, kernel = jnp.asarray(np.random.RandomState(1).randn(1, 6, 6, 2), jnp.float32), jnp.arange(18.0).reshape(3, 3, 1, 2)
    convolution, *shapes = of_program(depthwise, image, kernel)
    mirrored = dataclasses.replace(convolution, attributes=convolution.attributes.replace("size=3x3", "size=3x3 rhs_reversal=1x0"))
    again, _ = rebuilt(mirrored, *shapes)
    np.testing.assert_allclose(again(image, kernel), depthwise(image, kernel[::-1]), rtol=1e-5)


def test_operands_of_two_dtypes_are_brought_to_the_wider_one():
    """Seen in CoDeNet's step, where a cast had become part of the convolution."""
    image, kernel = jnp.asarray(np.random.RandomState(2).randn(1, 6, 6, 2), jnp.float32), jnp.arange(18.0).reshape(3, 3, 1, 2)
    convolution, left, right = of_program(depthwise, image, kernel)
    again, shapes = rebuilt(convolution, dataclasses.replace(left, dtype="bf16"), right)
    assert [shape.dtype for shape in shapes] == [jnp.bfloat16, jnp.float32]
    image = image.astype(jnp.bfloat16)
    np.testing.assert_allclose(again(image, kernel), depthwise(image.astype(jnp.float32), kernel), rtol=1e-5)


@pytest.mark.aot
@pytest.mark.timeout(300)
def test_a_depthwise_convolution_costs_what_its_own_code_takes_and_not_the_estimate(tmp_path):
    def gradients(image, kernel):
        return jax.grad(lambda image, kernel: jnp.sum(jnp.square(depthwise(image, kernel)).astype(jnp.float32)), (0, 1))(image, kernel)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((128, 7, 7, 128), (3, 3, 1, 128))]
    whole = schedule(jax.export.export(jax.jit(gradients), platforms=("tpu",))(*shapes), "v5e:1x1", tmp_path)
    module = hlo.parse(whole.text)
    alone = grouped_cycles(module, "v5e:2x2", tmp_path)
    assert alone.keys() == grouped_convolutions(module).keys() and len(alone) == 3
    ops = module.computations[module.entry]
    print({name: (ops[name].cycles, whole.cycles[name], cycles) for name, cycles in alone.items()})
    for name, cycles in alone.items():
        assert 0.4 < cycles / whole.cycles[name] < 1.3
    assert max(ops[name].cycles / cycles for name, cycles in alone.items()) > 2
