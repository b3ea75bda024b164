"""What one image costs: multiply-adds, parameters, activations, read from the traced network, so every architecture is counted by the same rule.

Activations are the output elements of convolutions, matrix products and max-pools, which predict the run time better than multiply-adds do (Dollar
et al. 2021, arXiv 2103.06877; Radosavovic et al. 2020, 2003.13678). Elementwise work, norms, averages and the adding of biases are not counted.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxvision.kernels.forms import VALUE

# The ops of kernels/, whose kernels are (kh, kw, c / groups, d), and (c, d) of a dense layer.
OPS = ("conv_forward", "depthwise_conv_forward", "grouped_conv_forward", "dense_forward")


@dataclasses.dataclass(frozen=True)
class Complexity:
    """Of one forward pass over one image.

    Attributes:
      flops: multiply-adds of convolutions and matrix products.
      parameters: trainable numbers.
      activations: output elements of convolutions, matrix products and max-pools.
    """

    flops: int
    parameters: int
    activations: int


def complexity(model: nn.Module, channels: int = 3) -> Complexity:
    """Counts `model` at its own image size by tracing it once; nothing is computed, no memory is used."""
    image = jax.ShapeDtypeStruct((1, *model.image_size, channels), jnp.float32)
    run = functools.partial(model.init_with_output, train=False)
    traced, (_, variables) = jax.make_jaxpr(run, return_shape=True)(jax.random.key(0), image)
    flops, activations = _count(traced.jaxpr)
    return Complexity(flops, sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])), activations)


def _count(jaxpr) -> tuple[int, int]:
    flops = activations = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        # The second name is how a traced convolution of kernels/ reads, whose kernels have their output channels last.
        if name == "conv_general_dilated" or name.endswith("conv_forward"):
            kernel = equation.invars[1].aval.shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]] if "dimension_numbers" in params else kernel[-1]
            window = math.prod(kernel) // features
            flops, activations = flops + size * window, activations + size
        elif name in OPS:
            flops, activations = flops + size * math.prod(equation.invars[1].aval.shape[:-1]), activations + size
        elif name == "attention_forward":
            queries, keys = params["call"].tokens([v.aval for v in equation.invars])
            batch, heads = equation.invars[0].aval.shape[0], params["call"].heads
            scores, width = batch * heads * queries * keys, equation.invars[0].aval.shape[2] // heads // (3 if params["call"].packed else 1)
            flops, activations = flops + scores * width + size * keys, activations + scores + size
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            flops, activations = flops + size * depth, activations + size
        elif name == "reduce_window_max":
            activations += size
        elif (op := getattr(equation.primitive, "op", None)) is not None and params["recipe"] == VALUE:
            # An op of several forms (kernels/forms.py) costs what its plain form does.
            form = functools.partial(op.forms["reference"], **dict(params["static"]))
            more_flops, more_activations = _count(jax.make_jaxpr(form)(*(v.aval for v in equation.invars)).jaxpr)
            flops, activations = flops + more_flops, activations + more_activations
        else:
            times = params["length"] if name == "scan" else 1
            for inner in jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(inner):
                    more_flops, more_activations = _count(getattr(inner, "jaxpr", inner))
                    flops, activations = flops + times * more_flops, activations + times * more_activations
    return flops, activations


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
