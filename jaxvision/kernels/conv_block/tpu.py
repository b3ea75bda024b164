"""A residual block as one TPU kernel at inference: the wide map between its pointwise layers stays on the chip (Lavin 2024, arXiv 2404.03617).

Rows and columns are leading axes, examples lie in the sublanes and channels in the lanes, so that a shift by a tap is a matter of addresses. A
program takes a strip of rows of 16 examples, with the border that the convolution sees. Groups are merged into blocks of up to 128 channels whose
kernels are block-diagonal, one matrix product a tap; a depthwise convolution is a sum of products on the vector unit. The wide map is made and used
up a row of the strip at a time, in slices of its channels.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.conv_block.reference import normalized
from jaxvision.kernels.conv_block.weights import Settings, Weights

LANES, SLICE = 128, 512
# Bytes that one call may keep on chip: TPU v4 has 16 MiB, which is the least.
BUDGET = 13 * 2**20
DTYPES = (jnp.bfloat16, jnp.float32)


def _examples(dtype) -> int:
    return 32 // jnp.dtype(dtype).itemsize


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def strip(shape, weights: Weights, dtype) -> int | None:
    """Rows of a strip, a multiple of the border: as many as fit; None where not even the border's do."""
    _, height, width, channels = shape
    border, item = weights.conv.shape[0] // 2, jnp.dtype(dtype).itemsize
    pixel = _examples(dtype) * _up(channels, LANES) * item
    wide = weights.expand.shape[1]
    kept = 2 * item * (2 * _up(channels, LANES) * wide + _merged_size(weights) * max(1, weights.conv.shape[2] > 1))
    row = (width * _examples(dtype)) * 4 * (3 * _up(channels, LANES) + 3 * min(SLICE, wide))
    fits = [
        rows
        for rows in range(border, _up(height, border) + 1, border)
        if kept + row + pixel * (4 * rows * width + 4 * border * width + (rows + 2 * border) * (width + 2 * border)) <= BUDGET
    ]
    return max(fits) if fits else None


def _merged_size(weights: Weights) -> int:
    k, _, _, channels = weights.conv.shape
    return k * k * min(channels, LANES) * channels


def covers(x, weights: Weights, settings: Settings) -> bool:
    k, k2, group, channels = weights.conv.shape
    block = min(channels, LANES)
    return (
        settings.activation in ACTIVATIONS
        and all(isinstance(n, int) for n in x.shape)
        and x.dtype in DTYPES
        and x.shape[0] % _examples(x.dtype) == 0
        and k == k2
        and k % 2 == 1
        and k > 1
        and channels % block == 0
        and block % group == 0
        and weights.expand.shape[1] % min(SLICE, weights.expand.shape[1]) == 0
        and strip(x.shape, weights, x.dtype) is not None
    )


def _block_diagonal(kernel):
    """(taps, blocks, block, block): each block of channels as a dense kernel with zeros between the groups."""
    k, _, group, channels = kernel.shape
    block = min(channels, LANES)
    parts = kernel.reshape(k * k, group, channels // block, block // group, group)
    eye = jnp.eye(block // group, dtype=kernel.dtype)
    # (t, i, n, q, o) -> (t, n, p, i, q, o): input i of group p reaches output o of group q where p = q.
    dense = parts.transpose(0, 2, 1, 3, 4)[:, :, None] * eye[:, None, :, None]
    return dense.reshape(k * k, channels // block, block, block)


def forward(x, weights: Weights, settings: Settings, *, interpret: bool = False):
    _, height, width, channels = x.shape
    k, border, wide = weights.conv.shape[0], weights.conv.shape[0] // 2, weights.expand.shape[1]
    depthwise, rows, examples = weights.conv.shape[2] == 1, strip(x.shape, weights, x.dtype), _examples(x.dtype)
    block, part = min(channels, LANES), min(SLICE, wide)
    strips, dtype = -(-height // rows), x.dtype
    conv = weights.conv.reshape(k * k, 1, channels).astype(jnp.float32) if depthwise else _block_diagonal(weights.conv)

    def product(a, b):
        # XLA has no product of bfloat16 with a float32 sum on CPUs, where the kernel is interpreted.
        a, b = (a.astype(jnp.float32), b.astype(jnp.float32)) if interpret else (a, b)
        exact = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
        return lax.dot_general(a, b, (((1,), (0,)), ((), ())), precision=exact, preferred_element_type=jnp.float32)

    def kernel(above_ref, x_ref, below_ref, conv_ref, conv_bias, expand, expand_bias, project, project_bias, y_ref, held):
        t = pl.program_id(1)
        held[...] = jnp.zeros(held.shape, dtype)

        def put(ref, at, first):
            def one(r, _):
                @pl.when((first + r >= 0) & (first + r < height))
                def _():
                    held[at + r, pl.ds(border, width)] = ref[r]

                return 0

            lax.fori_loop(0, ref.shape[0], one, 0)

        put(above_ref, 0, t * rows - border)
        put(x_ref, border, t * rows)
        put(below_ref, border + rows, (t + 1) * rows)

        def convolved(r):
            taps = [(n, held[r + n // k, pl.ds(n % k, width)]) for n in range(k * k)]
            if depthwise:
                return functools.reduce(jnp.add, [v.astype(jnp.float32) * conv_ref[n] for n, v in taps]).reshape(width * examples, channels)
            blocks = []
            for c in range(channels // block):
                cut = [v[..., c * block : (c + 1) * block].reshape(width * examples, block) for _, v in taps]
                blocks.append(functools.reduce(jnp.add, [product(v, conv_ref[n, c]) for n, v in enumerate(cut)]))
            return jnp.concatenate(blocks, -1) if len(blocks) > 1 else blocks[0]

        def one(r, _):
            u = normalized(convolved(r) + conv_bias[...], settings.epsilon).astype(dtype)
            total = project_bias[...] + x_ref[r].reshape(width * examples, channels).astype(jnp.float32)
            for start in range(0, wide, part):
                h = product(u, expand[:, start : start + part]) + expand_bias[:, start : start + part]
                total += product(ACTIVATIONS[settings.activation](h).astype(dtype), project[start : start + part])
            y_ref[r] = total.reshape(width, examples, channels).astype(dtype)
            return 0

        lax.fori_loop(0, rows, one, 0)

    last = -(-height // border) - 1
    each = lambda rows_of, index: pl.BlockSpec((rows_of, width, examples, channels), lambda b, t: (index(t), 0, b, 0))
    whole = lambda a: pl.BlockSpec(a.shape, lambda b, t: (0,) * a.ndim)
    shared = (conv, weights.conv_bias[None], weights.expand, weights.expand_bias[None], weights.project, weights.project_bias[None])
    neighbours = (
        each(border, lambda t: jnp.maximum(t * (rows // border) - 1, 0)),
        each(rows, lambda t: t),
        each(border, lambda t: jnp.minimum((t + 1) * (rows // border), last)),
    )
    x = x.transpose(1, 2, 0, 3)
    y = pl.pallas_call(
        kernel,
        grid=(x.shape[2] // examples, strips),
        in_specs=[*neighbours, *map(whole, shared)],
        out_specs=each(rows, lambda t: t),
        out_shape=jax.ShapeDtypeStruct(x.shape, dtype),
        scratch_shapes=[pltpu.VMEM((rows + 2 * border, width + 2 * border, examples, channels), dtype)],
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=BUDGET + 2 * 2**20),
    )(x, x, x, *shared)
    return y.transpose(2, 0, 1, 3)


ACTIVATIONS = {"silu": lambda h: h / (1 + jnp.exp(-h)), "gelu": lambda h: 0.5 * h * (1 + lax.erf(h * 2**-0.5))}
