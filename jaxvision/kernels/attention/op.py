"""Attention as JAX primitives: forward, its tangent, and its cotangents.

    forward(operands) -> y          tangent(operands, tangents) -> dy          backward(dy, operands) -> cotangents

The tangent is linear in its tangents and transposes into `backward`; the derivatives of these two are those of the plain JAX code. So gradients run
the kernel of the platform that the program is compiled for, and forward-over-reverse derivatives exist, which a custom VJP would not have.

The backward pass takes the operands and nothing else, and computes the weights again. Where both passes are plain XLA code (CPUs) that is the same
computation twice in one program, of which the compiler keeps one: time and memory are those of ordinary differentiation.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec as P

from jaxvision.kernels.attention import gpu, reference, tpu, tpu_flash, tpu_long, triton
from jaxvision.kernels.attention.call import Call

# In the order in which they are asked whether they cover a call; plain XLA code is what is left.
IMPLEMENTATIONS = {"reference": (), "tpu": (tpu, tpu_long, tpu_flash), "cuda": (gpu, triton), "triton": (triton,)}
# What is interpreted elsewhere; cuDNN cannot be.
PLATFORMS = {tpu: "tpu", tpu_long: "tpu", tpu_flash: "tpu", triton: "cuda"}


def kernel_of(name: str, call: Call, operands):
    """The first implementation for a platform that covers a call, None where that is plain XLA code."""
    return next((each for each in IMPLEMENTATIONS[name] if each.covers(call, *operands)), None)


def _tangent(call: Call, which, *arrays):
    operands, tangents = list(arrays[: len(arrays) - len(which)]), arrays[len(arrays) - len(which) :]

    def of_chosen(*chosen):
        filled = list(operands)
        for i, value in zip(which, chosen):
            filled[i] = value
        return reference.forward(call, *filled)

    return jax.jvp(of_chosen, tuple(operands[i] for i in which), tuple(tangents))[1]


def _run(platform: str, backwards: bool, *arrays, call: Call, which: tuple[int, ...] = ()):
    """`forward` or `backward` by the implementation of a platform, on each shard of the batch where there is a mesh."""
    name = call.implementation or platform
    operands, cut = arrays[1:] if backwards else arrays, call.cut
    split = [i not in call.shared or (operands[i].ndim == 4 and operands[i].shape[0] == operands[0].shape[0] > 1) for i in range(len(operands))]
    shapes = [jax.ShapeDtypeStruct(cut.local(x.shape) if part else x.shape, x.dtype) for x, part in zip(operands, split)]
    chosen = kernel_of(name, call, shapes) if _fits(call, operands, shapes) else None
    if chosen is None:
        return reference.backward(call, which, *arrays) if backwards else reference.forward(call, *operands)
    options = {"interpret": platform != PLATFORMS[chosen]} if chosen in PLATFORMS else {}
    if not backwards:
        return cut.over(functools.partial(chosen.forward, call, **options), split)(*operands)
    local = dataclasses.replace(call, groups=max(1, call.groups // cut.shards)) if cut.axes else call
    run = functools.partial(chosen.backward, local, which, **options)
    if cut.mesh is None:
        return run(*arrays)
    # What all examples share has seen one shard's examples only, unless these are whole groups.
    own = [part or call.groups > 1 for part in split]
    of_shard = lambda *arrays: tuple(r if own[i] or not cut.axes else jax.lax.psum(r, cut.axes) for i, r in zip(which, run(*arrays)))
    specs = [P(cut.axes) if part else P() for part in split]
    return cut.mapped(of_shard, (P(cut.axes), *specs), tuple(P(cut.axes) if own[i] else P() for i in which))(*arrays)


def _fits(call: Call, operands, shapes) -> bool:
    """Whether all sizes are numbers and batch and groups can be cut along the mesh, each shard starting with bias 0."""
    if not all(isinstance(n, int) for x in operands for n in x.shape) or not call.cut.fits(operands[0].shape[0]):
        return False
    bias, local = call.named(shapes)["bias"], shapes[0].shape[0]
    return (call.groups == 1 or call.groups % call.cut.shards == 0) and (bias is None or local % bias.shape[0] == 0)


def _primitive(name: str, reference_of, multiple: bool) -> Primitive:
    primitive = Primitive(f"attention_{name}")
    primitive.multiple_results = multiple

    @functools.cache
    def compiled(static):
        return jax.jit(lambda *arrays: primitive.bind(*arrays, **dict(static)))

    primitive.def_impl(lambda *arrays, **static: compiled(tuple(sorted(static.items())))(*arrays))

    @functools.cache
    def abstract(avals, static):
        avals = jax.make_jaxpr(functools.partial(reference_of, **dict(static)))(*avals).out_avals
        return avals if multiple else avals[0]

    primitive.def_abstract_eval(lambda *avals, **static: abstract(avals, tuple(sorted(static.items()))))
    return primitive


def _lower(primitive: Primitive, run, platform: str | None, exported=None) -> None:
    """`exported`: what a program that is exported has instead."""
    # One traced function a shape, so that blocks of the same shape share one function of the lowered module.
    rules = [mlir.lower_fun(jax.jit(each, static_argnames=("call", "which")), primitive.multiple_results) for each in (run, exported or run)]

    def lower(context, *operands, **static):
        return rules[context.module_context.lowering_parameters.for_export](context, *operands, **static)

    mlir.register_lowering(primitive, lower, platform=platform)


def _plain_backward(*arrays, call, which):
    return tuple(reference.backward(call, which, *arrays))


forward = _primitive("forward", lambda *arrays, call: reference.forward(call, *arrays), False)
tangent = _primitive("tangent", lambda *arrays, call, which: _tangent(call, which, *arrays), False)
backward = _primitive("backward", _plain_backward, True)
for _platform in ("tpu", "cuda", None):
    for _primitive_of, _backwards in ((forward, False), (backward, True)):
        # Calls of cuDNN and of Triton are only promised to run with the versions that they are made with.
        _plain = functools.partial(_run, "reference", _backwards) if _platform == "cuda" else None
        _lower(_primitive_of, functools.partial(_run, _platform or "reference", _backwards), _platform, _plain)
_lower(tangent, lambda *arrays, call, which: _tangent(call, which, *arrays), None)


def _instantiated(tangents):
    which = tuple(i for i, t in enumerate(tangents) if type(t) is not ad.Zero)
    return which, [tangents[i] for i in which]


def _forward_jvp(operands, tangents, *, call):
    which, moving = _instantiated(tangents)
    return forward.bind(*operands, call=call), tangent.bind(*operands, *moving, call=call, which=which)


def _plain_jvp(primitive: Primitive, plain):
    """The primitive itself for the value, plain code for its derivative."""

    def rule(arrays, tangents, **static):
        places, moving = _instantiated(tangents)

        def of_chosen(*chosen):
            filled = list(arrays)
            for i, value in zip(places, chosen):
                filled[i] = value
            return plain(*filled, **static)

        _, out = jax.jvp(of_chosen, tuple(arrays[i] for i in places), tuple(moving))
        return primitive.bind(*arrays, **static), out

    return rule


def _tangent_transpose(cotangent, *arrays, call, which):
    operands = arrays[: len(arrays) - len(which)]
    if type(cotangent) is ad.Zero:
        return [None] * len(operands) + [ad.Zero(x.aval.to_ct_aval() if hasattr(x.aval, "to_ct_aval") else x.aval) for x in arrays[len(operands) :]]
    return [None] * len(operands) + list(backward.bind(cotangent, *operands, call=call, which=which))


ad.primitive_jvps[forward] = _forward_jvp
ad.primitive_jvps[backward] = _plain_jvp(backward, _plain_backward)
ad.primitive_jvps[tangent] = _plain_jvp(tangent, lambda *arrays, call, which: _tangent(call, which, *arrays))
ad.primitive_transposes[tangent] = _tangent_transpose


def _merged(call: Call, operands, axes, size: int):
    """Operands whose mapped axis joined the batch, which it precedes; what all share stays as it is, each round of the batch taking it."""
    b = operands[0].shape[0 if axes[0] is None or axes[0] > 0 else 1]
    out = []
    for i, (x, axis) in enumerate(zip(operands, axes)):
        if i in call.shared and axis is None:
            out.append(x)
            continue
        x = _leading(x, axis, size)
        if i in call.shared and x.shape[1] != b:
            x = jnp.tile(x, (1, b // x.shape[1], *(1,) * (x.ndim - 2)))
        out.append(x.reshape(size * x.shape[1], *x.shape[2:]))
    return out


def _leading(x, axis: int | None, size: int):
    return jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)


def _size(arrays, axes) -> int:
    return next(x.shape[axis] for x, axis in zip(arrays, axes) if axis is not None)


def _forward_batch(operands, axes, *, call):
    size = _size(operands, axes)
    if call.offset and axes[1] is not None:
        # An offset each: added here, where it is not the kernel's to add.
        qkv, offset = _leading(operands[0], axes[0], size), _leading(operands[1], axes[1], size)
        operands, axes = (qkv + offset[:, None], *operands[2:]), (0, *axes[2:])
        call = dataclasses.replace(call, offset=False)
    y = forward.bind(*_merged(call, operands, axes, size), call=call)
    return y.reshape(size, y.shape[0] // size, *y.shape[1:]), 0


def _backward_batch(arrays, axes, *, call, which):
    size = _size(arrays, axes)
    if any(axes[1 + i] is not None for i in call.shared):
        led = [_leading(x, axis, size) for x, axis in zip(arrays, axes)]
        results = [backward.bind(*(x[i] for x in led), call=call, which=which) for i in range(size)]
        return [jnp.stack(parts) for parts in zip(*results)], [0] * len(which)
    call = dataclasses.replace(call, groups=call.groups * size) if any(i in call.shared for i in which) else call
    cotangent = _leading(arrays[0], axes[0], size)
    merged = _merged(call, arrays[1:], axes[1:], size)
    results = backward.bind(cotangent.reshape(-1, *cotangent.shape[2:]), *merged, call=call, which=which)
    return [r.reshape(size, r.shape[0] // size, *r.shape[1:]) for r in results], [0] * len(which)


def _tangent_batch(arrays, axes, *, call, which):
    return jax.vmap(functools.partial(_tangent, call, which), axes)(*arrays), 0


batching.primitive_batchers[forward] = _forward_batch
batching.primitive_batchers[backward] = _backward_batch
batching.primitive_batchers[tangent] = _tangent_batch
