"""Contrastive losses of pairs of unit vectors, of queries against a queue, and of nearest neighbours, as pure functions.

Notation: s = cosine / temperature, s+ of a pair, U the sum of exp(s) over the negatives. InfoNCE = -s+ + log(exp(s+) + U); decoupled (DCL, Yeh et
al. 2022, arXiv 2110.06848) = -s+ + log U. With q = U / (exp(s+) + U) the gradient of the first is q times the gradient of the second.

Losses are an anchor's, not means; sums over a batch that is cut over devices are taken by the compiler, so the number of devices changes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError


class Terms(NamedTuple):
    """s+ and log U of every anchor."""

    positive: Float[Array, "..."]
    negative: Float[Array, "..."]


def pairs(z: Float[Array, "b 2 d"], temperature: float, groups: int = 1) -> Terms:
    """Terms (b, 2) of two views of each picture; the negatives are both views of all other pictures, 2 b - 2 of them.

    Args:
      z: of length 1.
      groups: the batch is cut into so many blocks of neighbouring rows, and negatives are of the anchor's own block: what an implementation that
        does not gather negatives from other devices computes on that many of them.

    Raises ConfigError when the groups do not divide the batch, or leave a picture alone.
    """
    batch = z.shape[0]
    if batch % groups or batch // groups < 2:
        raise ConfigError(f"task.groups={groups} does not cut {batch} pictures into equal groups of at least 2")
    if groups > 1:
        cut = pairs_of_all(z.reshape(groups, batch // groups, *z.shape[1:]), temperature)
        return jax.tree.map(lambda leaf: leaf.reshape(batch, 2), cut)
    return jax.tree.map(lambda leaf: leaf[0], pairs_of_all(z[None], temperature))


def pairs_of_all(z: Float[Array, "g b 2 d"], temperature: float) -> Terms:
    """`pairs` of each group."""
    scores = jnp.einsum("gikd,gjld->gikjl", z, z, precision="highest") / temperature
    itself = jnp.eye(z.shape[1], dtype=bool)[:, None, :, None]
    negative = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, scores), axis=(-2, -1))
    positive = (z[:, :, 0] * z[:, :, 1]).sum(-1)[..., None] / temperature
    return Terms(jnp.broadcast_to(positive, negative.shape), negative)


def against_queue(
    query: Float[Array, "b d"], key: Float[Array, "b d"], queue: Float[Array, "n d"], temperature: float
) -> Terms:
    """Terms (b,) of a query, its key, and the rows of a queue as negatives; all of length 1."""
    scores = jnp.matmul(query, queue.T, precision="high") / temperature
    return Terms((query * key).sum(-1) / temperature, jax.nn.logsumexp(scores, axis=-1))


def against_batch(query: Float[Array, "b v d"], key: Float[Array, "b v d"], temperature: float) -> Terms:
    """Terms (b, v) of queries, each with its row's key, and the keys of the other rows in the same column as negatives; all of length 1.

    Raises ConfigError for a batch of one, which has no negatives.
    """
    if query.shape[0] < 2:
        raise ConfigError(f"a batch of {query.shape[0]} has no negatives: set batch_size to at least 2")
    scores = jnp.einsum("ivd,jvd->vij", query, key, precision="highest") / temperature
    negative = jax.nn.logsumexp(jnp.where(jnp.eye(query.shape[0], dtype=bool), -jnp.inf, scores), axis=-1)
    return Terms((query * key).sum(-1) / temperature, negative.T)


def nearest_rows(z: Float[Array, "... d"], support: Float[Array, "n d"]) -> Float[Array, "... d"]:
    """For each vector the row of `support` with the largest cosine, all of length 1."""
    return support[jnp.matmul(z, support.T, precision="high").argmax(-1)]


def info_nce(terms: Terms) -> Float[Array, "..."]:
    """-s+ + log(exp(s+) + U)."""
    return jax.nn.softplus(terms.negative - terms.positive)


def decoupled(terms: Terms, weight: Float[Array, "..."] | float = 1.0) -> Float[Array, "..."]:
    """-w s+ + log U. It has no lower bound of 0."""
    return terms.negative - weight * terms.positive


def coupling(terms: Terms) -> Float[Array, "..."]:
    """q = U / (exp(s+) + U), by which InfoNCE's gradient is smaller than the decoupled one's: 1 is none, 0 is no gradient left."""
    return jax.nn.sigmoid(terms.negative - terms.positive)


def von_mises_fisher(cosine: Float[Array, "b ..."], sigma: float) -> Float[Array, "b ..."]:
    """DCLW's weights of positives, 2 - exp(c / sigma) / mean over the batch; their mean is 1, and easy pairs may fall below 0."""
    return 2 - cosine.shape[0] * jax.nn.softmax(cosine / sigma, axis=0)


def enqueue(queue: Float[Array, "n d"], at: Array, rows: Float[Array, "b d"]) -> tuple[Float[Array, "n d"], Array]:
    """The queue with `rows` written from row `at` on, and where the next ones go. Raises ConfigError unless the batch divides the queue."""
    if queue.shape[0] % rows.shape[0]:
        raise ConfigError(f"task.queue={queue.shape[0]} is not a multiple of the batch of {rows.shape[0]}")
    return jax.lax.dynamic_update_slice_in_dim(queue, rows.astype(queue.dtype), at, axis=0), (at + rows.shape[0]) % queue.shape[0]
