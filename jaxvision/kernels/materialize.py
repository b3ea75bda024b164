"""A value that is computed once: the compiler must not compute it again inside each of its readers.

XLA for CPUs fuses whatever is elementwise into everything that reads it, and computes it once a reader. Along a residual stream that adds up: the
gradient that reaches a block is the sum of what all later blocks sent back, and each block's readers of it computed that whole sum again, from its
first term, which made a backward pass quadratic in the depth. An `optimization_barrier` does not help: that compiler drops it before it fuses.

So on CPUs the value passes through a loop that is never entered, which nothing is fused through; elsewhere it passes through nothing.
"""

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_materialize = Primitive("materialize")


def materialize(x: jax.Array) -> jax.Array:
    """`x`, stored where the program is compiled for CPUs; its cotangent as well. Linear, and of every shape and dtype."""
    return _materialize.bind(x)


def _loop(x):
    # The barrier keeps the constant from being known to the passes that remove loops.
    never = lax.optimization_barrier(False)
    return lax.while_loop(lambda carry: carry[0], lambda carry: (~carry[0], lax.select(carry[0], carry[1], lax.neg(carry[1]))), (never, x))[1]


_materialize.def_impl(lambda x: x)
_materialize.def_abstract_eval(lambda x: x)
ad.deflinear2(_materialize, lambda cotangent, x: [cotangent if isinstance(cotangent, ad.Zero) else materialize(cotangent)])
batching.primitive_batchers[_materialize] = lambda arguments, axes: (materialize(*arguments), *axes)
mlir.register_lowering(_materialize, lambda context, x: [x])
mlir.register_lowering(_materialize, mlir.lower_fun(_loop, multiple_results=False), platform="cpu")
