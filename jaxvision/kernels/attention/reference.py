"""What attention means here, in plain JAX: every other implementation is compared with this one, and platforms without code of their own run it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxvision.kernels.attention.call import Call, keep_mask


def attention_weights(q, k, bias=None):
    """softmax(q k^T / sqrt(width) + bias) in float32: (b, n, q, t) of (b, q, n, k) and (b, t, n, k)."""
    scores = jnp.einsum("bqnk,btnk->bnqt", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    return jax.nn.softmax(scores, axis=-1)


def forward(call: Call, *operands):
    (q, k, v), named = call.parts(operands), call.named(operands)
    bias, seed = named["bias"], named["seed"]
    b, rows, heads = q.shape[0], q.shape[1], call.heads
    q, k, v = (x.reshape(b, x.shape[1], heads, x.shape[2] // heads) for x in (q, k, v))

    def one(q, k, v, bias, seed):
        weights = attention_weights(q, k, bias)
        if call.dropout:
            weights = jnp.where(keep_mask(seed, weights.shape, call.dropout), weights / (1 - call.dropout), 0.0)
        return jnp.einsum("bnqt,btnd->bqnd", weights.astype(v.dtype), v)

    if bias is None or bias.shape[0] in (1, b):
        return one(q, k, v, bias, seed).reshape(b, rows, -1)
    # Example i has bias i modulo their number; mapped over rounds, so that the biases are not repeated for each.
    rounds = lambda x: x if x is None else x.reshape(b // bias.shape[0], bias.shape[0], *x.shape[1:])
    mapped = jax.vmap(one, (0, 0, 0, None, None if seed is None else 0))(rounds(q), rounds(k), rounds(v), bias, rounds(seed))
    return mapped.reshape(b, rows, -1)


def backward(call: Call, which: tuple[int, ...], cotangent, *operands):
    """Cotangents of the operands numbered `which`, those of offset and bias one group after the other.

    Its first half is `forward` again, operation by operation, of which a program keeps one.
    """

    if call.groups > 1:
        one, alone = dataclasses.replace(call, groups=1), [i for i in range(len(operands)) if i not in call.shared]
        block = lambda x: x.reshape(call.groups, x.shape[0] // call.groups, *x.shape[1:])
        axes = (0, *(0 if i in alone else None for i in range(len(operands))))
        arrays = (block(cotangent), *(block(x) if i in alone else x for i, x in enumerate(operands)))
        results = jax.vmap(functools.partial(backward, one, which), axes)(*arrays)
        return tuple(x.reshape(-1, *x.shape[2:]) for x in results)

    def of_chosen(*chosen):
        filled = list(operands)
        for i, value in zip(which, chosen):
            filled[i] = value
        return forward(call, *filled)

    return jax.vjp(of_chosen, *(operands[i] for i in which))[1](cotangent)
