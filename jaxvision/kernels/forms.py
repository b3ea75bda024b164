"""An op that is written in several forms, each for the platforms where it is the fastest, and differentiated in the form that runs there.

`lax.platform_dependent` alone would not do for such an op: derived through the choice, every platform's program hands on what all the forms'
derivatives want to remember. And with a custom VJP around it there is no forward derivative. Here value, tangent and cotangents are one JAX primitive
that says which of them is meant, by a recipe:

    ()                             the op itself
    (TANGENT, recipe, which)       the directional derivative: operands, then tangents of those numbered `which`
    (COTANGENTS, recipe, which)    a cotangent a result, then operands -> cotangents of the operands numbered `which`

Each is computed by plain JAX derivatives of the form that belongs to the platform of the lowering. A tangent is linear in its tangents and transposes
into the cotangents, and derivatives of a recipe are recipes again, so both modes work to every order. Beside a form there may be a kernel written by
hand for its value and its cotangents; whatever else is derived is then the form's.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.choice import chosen
from jaxvision.kernels.manual_axes import alike
from jaxvision.kernels.sharded import context_cut

VALUE, TANGENT, COTANGENTS = (), "tangent", "cotangents"


class Kernel(NamedTuple):
    """A form by hand, which the compiler cannot cut along a mesh: each device computes its own examples. Calls under `vmap` are left to the form.

    Attributes:
      forward: (*arrays, interpret, **static) -> the result; interpret: on another platform than its own.
      cotangents: (cotangent, *arrays, interpret, **static) -> those of all arrays.
      covers: (*arrays, **static) -> whether it computes this call, which is else the form's of the same name.
      shared: numbers of the arrays whose first axis is not the batch's.
    """

    forward: Callable
    cotangents: Callable
    covers: Callable
    shared: tuple[int, ...]


class Forms:
    """`op(*arrays, implementation=None, **static)`: forms[...](*arrays, **static), an array.

    Args:
      forms: what a form is called -> the form; "reference" among them.
      platforms: platform -> the name of its form; all others take "reference".
      kernels: platform -> its kernel, beside the form of that name.

    Raises ModelError for an implementation that there is not.
    """

    def __init__(self, name: str, forms: dict[str, Callable], platforms: dict[str, str], kernels: dict[str, Kernel] | None = None):
        self.name, self.forms, self.kernels = name, forms, kernels or {}
        self.primitive = primitive = Primitive(name)
        primitive.multiple_results, primitive.op = True, self

        @functools.cache
        def compiled(static):
            return jax.jit(lambda *arrays: primitive.bind(*arrays, **dict(static)))

        primitive.def_impl(lambda *arrays, **static: compiled(tuple(sorted(static.items())))(*arrays))

        @functools.cache
        def abstract(avals, static):
            return jax.make_jaxpr(functools.partial(self._run, None, "reference", **{**dict(static), "form": "reference"}))(*avals).out_avals

        primitive.def_abstract_eval(lambda *avals, **static: abstract(avals, tuple(sorted(static.items()))))
        ad.primitive_jvps[primitive] = self._jvp
        ad.primitive_transposes[primitive] = self._transpose
        batching.primitive_batchers[primitive] = self._batch
        for platform, form in {**platforms, None: "reference"}.items():
            # One traced function a shape, so that layers of the same shape share one function of the lowered module.
            run = jax.jit(functools.partial(self._run, platform, form), static_argnames=("recipe", "form", "static", "mapped", "cut"))
            mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=True), platform=platform)

    def __call__(self, *arrays, implementation: str | None = None, **static):
        implementation = chosen(implementation)
        if implementation is not None and implementation not in self.forms:
            raise ModelError(f"{self.name} has no implementation {implementation!r}; {nearest(implementation, self.forms)}")
        options = {"form": implementation, "static": tuple(sorted(static.items())), "mapped": 0, "cut": context_cut()}
        return self.primitive.bind(*alike(*arrays), recipe=VALUE, **options)[0]

    def _run(self, platform: str | None, of_platform: str, *arrays, recipe, form: str | None, static, mapped: int, cut):
        form, static = form or of_platform, dict(static)
        if form in self.kernels and not mapped and (recipe == VALUE or recipe[:2] == (COTANGENTS, VALUE)):
            operands = arrays if recipe == VALUE else arrays[1:]
            split = [i not in self.kernels[form].shared for i in range(len(operands))]
            shapes = [jax.ShapeDtypeStruct(cut.local(x.shape) if part else x.shape, x.dtype) for x, part in zip(operands, split)]
            if cut.fits(arrays[0].shape[0]) and self.kernels[form].covers(*shapes, **static):
                return self._by_hand(form, platform != form, recipe, arrays, split, static, cut)
        run = _derived(lambda *arrays: (self.forms[form](*arrays, **static),), recipe)
        for _ in range(mapped):
            run = jax.vmap(run)
        return run(*arrays)

    def _by_hand(self, form: str, interpret: bool, recipe, arrays, split, static, cut):
        kernel = self.kernels[form]
        if recipe == VALUE:
            return (cut.over(functools.partial(kernel.forward, interpret=interpret, **static), split)(*arrays),)
        which = recipe[2]

        def of_shard(*arrays):
            found = kernel.cotangents(*arrays, interpret=interpret, **static)
            # What all examples share has seen one shard's examples only.
            return tuple(found[i] if split[i] or not cut.axes else jax.lax.psum(found[i], cut.axes) for i in which)

        if cut.mesh is None:
            return of_shard(*arrays)
        specs = tuple(P(cut.axes) if part else P() for part in split)
        return cut.mapped(of_shard, (P(cut.axes), *specs), tuple(specs[i] for i in which))(*arrays)

    def _jvp(self, arrays, tangents, *, recipe, **options):
        which = tuple(i for i, t in enumerate(tangents) if type(t) is not ad.Zero)
        moving = [tangents[i] for i in which]
        value = self.primitive.bind(*arrays, recipe=recipe, **options)
        return value, self.primitive.bind(*arrays, *moving, recipe=(TANGENT, recipe, which), **options)

    def _transpose(self, cotangents, *arrays, recipe, **options):
        kind, inner, which = recipe
        # Tangents are linear in what follows the operands; cotangents in what goes before, of which they are the transpose.
        operands = arrays[: -len(which)] if kind == TANGENT else arrays[_results(inner) :]
        filled = [jnp.zeros(c.aval.shape, c.aval.dtype) if type(c) is ad.Zero else c for c in cotangents]
        if kind == TANGENT:
            return [None] * len(operands) + self.primitive.bind(*filled, *operands, recipe=(COTANGENTS, inner, which), **options)
        return self.primitive.bind(*operands, *filled, recipe=(TANGENT, inner, which), **options) + [None] * len(operands)

    def _batch(self, arrays, axes, *, mapped: int, **options):
        """`vmap`: the mapped axis goes before all others of every array."""
        size = next(x.shape[axis] for x, axis in zip(arrays, axes) if axis is not None)
        led = [jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arrays, axes)]
        results = self.primitive.bind(*led, mapped=mapped + 1, **options)
        return results, [0] * len(results)


def _derived(function: Callable, recipe) -> Callable:
    """What a recipe makes of a function of arrays with a tuple of results."""
    if recipe == VALUE:
        return function
    kind, inner, which = recipe
    run = _derived(function, inner)

    def of_chosen(operands):
        def moved(*moving):
            filled = list(operands)
            for i, value in zip(which, moving):
                filled[i] = value
            return run(*filled)

        return moved, tuple(operands[i] for i in which)

    def tangent(*arrays):
        moved, at = of_chosen(arrays[: len(arrays) - len(which)])
        return tuple(jax.jvp(moved, at, tuple(arrays[len(arrays) - len(which) :]))[1])

    def cotangents(*arrays):
        count = _results(inner)
        moved, at = of_chosen(arrays[count:])
        return jax.vjp(moved, *at)[1](tuple(arrays[:count]))

    return tangent if kind == TANGENT else cotangents


def _results(recipe) -> int:
    """How many results a recipe has: as many as it is derived by where these are cotangents, else those of what it is derived from."""
    if recipe == VALUE:
        return 1
    kind, inner, which = recipe
    return len(which) if kind == COTANGENTS else _results(inner)
