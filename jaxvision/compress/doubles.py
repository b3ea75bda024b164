"""A function computed in float64 whatever the library's own dtypes: sums over paths of deep networks do not fit into float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.compress.rules import CALLS


def in_double(function: Callable, *examples: Any) -> Callable:
    """`function` of arrays (one result) with every float32 of its program made float64, to be called and differentiated inside
    `jax.enable_x64(True)`.

    examples: arrays or shapes of the arguments, float32.
    """
    program = jax.make_jaxpr(function)(*examples)

    def run(*arguments):
        return _evaluate(program.jaxpr, program.consts, [_wide(leaf) for leaf in jax.tree.leaves(arguments)])[0]

    return run


def _wide(value: Any) -> Any:
    return jnp.asarray(value, jnp.float64) if np.dtype(getattr(value, "dtype", np.int32)) == np.float32 else value


def _evaluate(jaxpr, consts, arguments):
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(_wide, consts), *arguments]))
    read = lambda v: _wide(np.asarray(v.val, v.aval.dtype)) if hasattr(v, "val") else values[v]
    for equation in jaxpr.eqns:
        operands, name = [read(v) for v in equation.invars], equation.primitive.name
        inner = next((equation.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in equation.params), None)
        if name in CALLS and inner is not None:
            closed = hasattr(inner, "consts")
            results = _evaluate(inner.jaxpr if closed else inner, inner.consts if closed else [], operands)
        else:
            wide = {key: np.dtype(np.float64) for key, value in equation.params.items() if _is_float32(value)}
            found = equation.primitive.bind(*operands, **{**equation.params, **wide})
            results = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, results))
    return [read(v) for v in jaxpr.outvars]


def _is_float32(value: Any) -> bool:
    return isinstance(value, np.dtype | type) and value in (np.dtype(np.float32), np.float32)
