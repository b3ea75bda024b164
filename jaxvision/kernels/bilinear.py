"""A convolution is linear in its image and in its kernel, and so are its two gradients. An op here is the three maps written once each:

    forward(x, w) -> y        input_grad(dy, w) -> dx        weight_grad(x, dy) -> dw

Each of them transposes into the other two, so derivatives of every order, forward and reverse, come from these three and nothing else. They are JAX
primitives, because a function with a custom VJP has no forward derivative, which Hessian-vector products need; because a primitive is lowered
for the platform that the program is compiled for, also when that is not the one it is traced on; and because a program that is never differentiated
or that is compiled for a platform without code of its own is then what plain `lax` would have given.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxvision.errors import ModelError, nearest
from jaxvision.kernels.choice import chosen
from jaxvision.kernels.geometry import Geometry
from jaxvision.kernels.manual_axes import alike
from jaxvision.kernels.sharded import Cut, context_cut


class Maps(NamedTuple):
    """One implementation.

    `covers(a, b, geometry)`: whether it computes a map of these two arguments, which is else left to the reference. `hand_cut`: the compiler cannot
    cut it along a mesh, so it runs on each shard of the batch by itself; its maps take `interpret`, true on other platforms than its own.
    `ahead(field, geometry)`: whether the map is faster than the reference, asked where the caller names no implementation.
    """

    forward: Callable
    input_grad: Callable
    weight_grad: Callable
    covers: Callable = lambda a, b, geometry: True
    hand_cut: bool = False
    ahead: Callable = lambda field, geometry: True


class Bilinear:
    """The three primitives of one op. `implementations` maps a platform's name ("cpu") to its maps; "reference" is meant for all the others.

    `op.forward(x, w, geometry, implementation)` and its two gradients; `implementation` None chooses by the platform of the lowering.
    """

    def __init__(self, name: str, implementations: dict[str, Maps]):
        self.name, self.implementations = name, implementations
        self.primitives = {field: self._primitive(field) for field in Maps._fields[:3]}
        partners = {  # what a map's transpose with respect to its first and to its second argument is, and in which order it takes them
            "forward": ("input_grad", "weight_grad"),
            "input_grad": ("forward", "weight_grad"),
            "weight_grad": ("input_grad", "forward"),
        }
        for field, (by_first, by_second) in partners.items():
            ad.defbilinear(self.primitives[field], self._transpose_first(field, by_first), self._transpose_second(field, by_second))

    def __call__(self, x, w, geometry: Geometry, implementation: str | None):
        implementation = chosen(implementation)
        if implementation is not None and implementation not in self.implementations:
            raise ModelError(f"{self.name} has no implementation {implementation!r}; {nearest(implementation, self.implementations)}")
        dtype = jnp.promote_types(x.dtype, w.dtype)
        x, w = alike(x.astype(dtype), w.astype(dtype))
        return self.primitives["forward"].bind(x, w, geometry=geometry, implementation=implementation, mapped=False, cut=context_cut())

    def _transpose_first(self, field: str, partner: str) -> Callable:
        def rule(cotangent, a, b, **static):
            del a
            # forward: (dy, w); input_grad: (dx, w); weight_grad by its image: (dy, dw), the kernel's place being taken by the cotangent.
            arguments = (b, cotangent) if field == "weight_grad" else (cotangent, b)
            return self.primitives[partner].bind(*arguments, **static)

        return rule

    def _transpose_second(self, field: str, partner: str) -> Callable:
        def rule(cotangent, a, b, **static):
            del b
            # forward: (x, dy); input_grad by its kernel: (dx, dy), the image's place being taken by the cotangent; weight_grad: (x, dw).
            arguments = (cotangent, a) if field == "input_grad" else (a, cotangent)
            return self.primitives[partner].bind(*arguments, **static)

        return rule

    def _run(self, field: str, platform: str, a, b, *, geometry: Geometry, implementation: str | None, mapped: bool, cut: Cut):
        name = implementation or platform
        maps = self.implementations[name]
        # A mapped axis is cut in place of the batch, and then every shard has its own kernels.
        cut = cut if maps.hand_cut else Cut()
        split = (True, mapped or field == "weight_grad")
        shapes = [jax.ShapeDtypeStruct(cut.local(v.shape) if part else v.shape, v.dtype) for v, part in zip((a, b), split)]
        shapes = [jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for v in shapes] if mapped else shapes
        covered = geometry.known and cut.fits(a.shape[0]) and maps.covers(*shapes, geometry)
        if not covered or (implementation is None and not maps.ahead(field, geometry)):
            maps, cut = self.implementations["reference"], Cut()
        options = {"interpret": platform != name} if maps.hand_cut else {}
        run = functools.partial(getattr(maps, field), geometry=geometry, **options)
        return cut.over(jax.vmap(run) if mapped else run, split, summed=field == "weight_grad" and not mapped)(a, b)

    def _primitive(self, field: str) -> Primitive:
        primitive = Primitive(f"{self.name}_{field}")

        @functools.cache
        def compiled(static):
            return jax.jit(lambda a, b: primitive.bind(a, b, **dict(static)))

        primitive.def_impl(lambda a, b, **static: compiled(tuple(sorted(static.items())))(a, b))

        @functools.cache
        def abstract(a, b, static):
            run = functools.partial(self._run, field, "reference", **{**dict(static), "implementation": "reference"})
            return jax.make_jaxpr(run)(a, b).out_avals[0]

        primitive.def_abstract_eval(lambda a, b, **static: abstract(a, b, tuple(sorted(static.items()))))
        batching.primitive_batchers[primitive] = functools.partial(self._batch, field)
        for platform in self.implementations:
            # One traced function a shape, so that blocks of the same shape share one function of the lowered module.
            run = jax.jit(functools.partial(self._run, field, platform), static_argnames=("geometry", "implementation", "mapped", "cut"))
            mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False), platform=None if platform == "reference" else platform)
        return primitive

    def _batch(self, field: str, arguments, axes, **static):
        """`vmap`: examples join the batch where the kernel is shared; where it is not, a leading axis is mapped by the implementation."""
        size = next(v.shape[axis] for v, axis in zip(arguments, axes) if axis is not None)
        a, b = (v if axis is None else jnp.moveaxis(v, axis, 0) for v, axis in zip(arguments, axes))
        primitive, mapped = self.primitives[field], static["mapped"]
        if field != "weight_grad" and axes[1] is None:
            lead = 1 if mapped else 0
            a = jnp.moveaxis(a, 0, lead)
            merged = a.reshape(*a.shape[:lead], size * a.shape[lead + 1], *a.shape[lead + 2 :])
            y = primitive.bind(merged, b, **static)
            return y.reshape(*y.shape[:lead], size, a.shape[lead + 1], *y.shape[lead + 1 :]), lead
        a, b = (jnp.broadcast_to(v, (size, *v.shape)) if axis is None else v for v, axis in zip((a, b), axes))
        if mapped:
            lead = a.shape[:2]
            y = primitive.bind(*(v.reshape(math.prod(lead), *v.shape[2:]) for v in (a, b)), **static)
            return y.reshape(*lead, *y.shape[1:]), 0
        return primitive.bind(a, b, **{**static, "mapped": True}), 0
