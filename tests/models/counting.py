"""Counting the parameters of hundreds of models in seconds.

`count_parameters` traces all of `init`, a second for a deep network, nearly all of it for initial values, and for layers that were traced before: the
same module with the same fields on an input of the same shape. Here such a call is answered from memory (its output is a placeholder of the known
shape, its parameters are known), and parameters start as zeros. tests/models/test_counts.py compares this with `count_parameters` itself.
"""

import contextlib
import math
from typing import Any
from unittest import mock

import flax.core.scope
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxvision.trees import named_leaves

Sizes = dict[str, int]


def parameter_sizes(model: nn.Module, image_shape: tuple[int, ...], memory: dict[Any, tuple[Sizes, Any]]) -> Sizes:
    """{'/'-joined path: number of elements} of the parameters of `model` for images of `image_shape`; nothing is computed.

    Args:
      memory: what earlier calls learned, extended by this one; start with an empty dict and keep it for as long as many models are counted.
    """
    recalled: Sizes = {}

    def intercept(call, arguments, keywords, context):
        module = context.module
        # Of a module's other methods, what they create is a part of the module, and not known apart from the rest.
        key = _key(module, context.method_name, arguments, keywords) if module.path and context.method_name == "__call__" else None
        here = "/".join(module.path) + "/"
        if key is not None and key in memory:
            sizes, output = memory[key]
            recalled.update({here + path: size for path, size in sizes.items()})
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), output)
        output = call(*arguments, **keywords)
        if key is not None and all(hasattr(leaf, "aval") for leaf in jax.tree.leaves(output)):
            sizes = {path.removeprefix(here): size for path, size in recalled.items() if path.startswith(here)}
            sizes |= _sizes(module.variables.get("params", {}))
            memory[key] = sizes, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), output)
        return output

    def trace(key, image):
        with nn.intercept_methods(intercept), _zeros_at_the_start():
            return model.init(key, image, train=False)

    created = jax.eval_shape(trace, jax.random.key(0), jax.ShapeDtypeStruct(image_shape, jnp.float32))
    return recalled | _sizes(created.get("params", {}))


@contextlib.contextmanager
def _zeros_at_the_start():
    param = nn.Module.param

    def zeros(key, shape, dtype=jnp.float32):
        return jnp.zeros(shape, dtype)

    def start(self, name, init, *arguments, **keywords):
        return param(self, name, zeros if arguments and isinstance(arguments[0], tuple) else init, *arguments, **keywords)

    one_key = lambda scope, name="params": scope.rngs[name].rng
    with mock.patch.object(nn.Module, "param", start), mock.patch.object(flax.core.scope.Scope, "make_rng", one_key):
        yield


def _sizes(tree: Any) -> Sizes:
    return {path: math.prod(leaf.shape) for path, leaf in named_leaves(tree).items()}


def _key(module: nn.Module, method: str, arguments: tuple, keywords: dict) -> Any | None:
    """What the parameters and the output shape of a call depend on; None when that cannot be told (modules or unhashable values among it)."""
    fields = [(name, getattr(module, name)) for name in module.__dataclass_fields__ if name not in ("parent", "name")]
    leaves, structure = jax.tree.flatten((arguments, keywords))
    shapes = [(leaf.shape, str(leaf.dtype)) if hasattr(leaf, "aval") else leaf for leaf in leaves]
    if any(isinstance(value, nn.Module) for _, value in fields):
        return None
    key = (type(module), method, tuple(fields), tuple(shapes), structure)
    try:
        hash(key)
    except TypeError:
        return None
    return key
