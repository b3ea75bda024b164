"""Edit distances (Levenshtein 1966) of rows of integers inside a compiled step, all examples at once.

Row i of the table holds the distances of the first i symbols of a prediction from the first j of the truth. An entry depends on its left neighbour,
D[i, j] = min(t[j], D[i, j-1] + 1) with t from the row above; that is j + the running minimum of t[j] - j, so a row is one cumulative minimum, and the
table one scan over the prediction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxvision.tasks.text.vocabulary import END, MARKS

SPACE = len(MARKS)


class Text(NamedTuple):
    """Symbols of which those that `kept` holds are the text, in order."""

    symbols: Int[Array, "b l"]
    kept: Bool[Array, "b l"]

    @property
    def length(self) -> Int[Array, "b"]:
        return self.kept.sum(-1)


def until_end(symbols: Int[Array, "b l"]) -> Bool[Array, "b l"]:
    """True up to the first end, which is included, at every step where there is none."""
    ended = jnp.cumsum(symbols == END, axis=-1)
    return (ended - (symbols == END)) == 0


def text_of(symbols: Int[Array, "b l"]) -> Text:
    """What a row of numbers reads: the characters before the first end; other marks are passed over wherever they stand."""
    return Text(symbols, until_end(symbols) & (symbols >= len(MARKS)))


def packed(text: Text) -> Text:
    """The same text with what is kept at the front."""
    place = jnp.where(text.kept, jnp.cumsum(text.kept, -1) - 1, text.kept.shape[-1])
    moved = jax.vmap(lambda symbols, place: jnp.zeros_like(symbols).at[place].set(symbols, mode="drop"))(text.symbols, place)
    return Text(moved, jnp.arange(text.kept.shape[-1]) < text.length[:, None])


def prefix_distances(predicted: Text, truth: Text) -> Int[Array, "b m"]:
    """Distances of the first 0, 1, …, L symbols of each prediction from the whole truth; of symbols that are not kept, the one before again."""
    truth = packed(truth)
    places, length = jnp.arange(truth.symbols.shape[-1] + 1), truth.length
    start = jnp.broadcast_to(places, (truth.symbols.shape[0], len(places)))
    far = jnp.iinfo(jnp.int32).max // 2

    def body(row, now):
        symbol, kept = now
        replaced = row[:, :-1] + (symbol[:, None] != truth.symbols)
        reached = jnp.minimum(row + 1, jnp.pad(replaced, ((0, 0), (1, 0)), constant_values=far))
        new = places + jax.lax.cummin(reached - places, axis=1)
        row = jnp.where(kept[:, None], new, row)
        return row, row

    _, rows = jax.lax.scan(body, start, (predicted.symbols.T, predicted.kept.T))
    rows = jnp.concatenate([start[None], rows])
    return jnp.take_along_axis(rows, length[None, :, None], axis=-1)[..., 0].T


def distances(predicted: Text, truth: Text) -> Int[Array, "b"]:
    """Edit distance of each pair."""
    return prefix_distances(predicted, truth)[:, -1]


def words(text: Text) -> Text:
    """Words as symbols, so that the same functions give distances in words.

    A word ends at a space and at the end of the text, so two spaces hold an empty one and an empty text is one. Its symbol is a 32-bit hash of its
    characters: different words are taken for one in about one of four thousand million pairs.
    """
    text = packed(text)
    # A row more, for the word that the end of the text ends.
    symbols = jnp.pad(text.symbols, ((0, 0), (0, 1)))
    place = jnp.arange(symbols.shape[-1])
    ends = ((symbols == SPACE) & (place < text.length[:, None])) | (place == text.length[:, None])

    def body(value, now):
        symbol, end = now
        mixed = _mix(value, symbol.astype(jnp.uint32))
        return jnp.where(end, jnp.uint32(_SEED), mixed), value

    _, hashes = jax.lax.scan(body, jnp.full(symbols.shape[:1], _SEED, jnp.uint32), (symbols.T, ends.T))
    return packed(Text(jax.lax.bitcast_convert_type(hashes.T, jnp.int32), ends))


_SEED = 2166136261


def _mix(value: UInt32[Array, "b"], symbol: UInt32[Array, "b"]) -> UInt32[Array, "b"]:
    """A round of FNV-1a with a stronger finish, in 32 bits."""
    value = (value ^ symbol) * jnp.uint32(16777619)
    value = (value ^ (value >> 15)) * jnp.uint32(0x85EBCA6B)
    return value ^ (value >> 13)


class Rates(NamedTuple):
    """Of each pair: distance in characters and words over the truth's length, and whether both are the same."""

    cer: Float[Array, "b"]
    wer: Float[Array, "b"]
    same: Bool[Array, "b"]


def error_rates(predicted: Int[Array, "b l"], truth: Int[Array, "b m"]) -> Rates:
    """Character and word error rates of rows of numbers, as `text_of` reads them; of an empty truth, the distances."""
    ours, theirs = text_of(predicted), text_of(truth)
    of = lambda a, b: distances(a, b) / jnp.maximum(b.length, 1)
    cer = of(ours, theirs)
    return Rates(cer, of(words(ours), words(theirs)), cer == 0)
