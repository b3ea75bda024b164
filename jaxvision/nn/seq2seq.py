"""A decoder that writes one symbol after the other: embedding, additive attention over a memory (Bahdanau et al. 2015, arXiv 1409.0473), GRU layers.

One `lax.scan` serves teacher forcing, scheduled sampling, greedy choice and sampling; beam search is a second one. Symbols are integers, 0 pads.
Attention scores are w2 . tanh(W1 [memory; h]) with the top layer's state h; the part of W1 that reads the memory is applied once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxvision.nn.recurrent import GRU, Cell, Linear, LinearWeights, drop


class Memory(NamedTuple):
    """What a decoder attends to: states of the encoder, and which of them belong to the example."""

    values: Float[Array, "b t h"]
    shown: Bool[Array, "b t"]


class Written(NamedTuple):
    """What was decoded.

    Attributes:
      log_probs: of every symbol at every step, given the symbols that were fed before it.
      symbols: the decoder's own choices.
    """

    log_probs: Float[Array, "b l k"]
    symbols: Int[Array, "b l"]


class Weights(NamedTuple):
    embed: Float[Array, "k e"]
    attn1: Linear
    attn2: Linear
    gru: tuple[tuple[Cell, ...], ...]
    out: Linear


class Attention(nn.Module):
    """Parameters `attn1` (2 H, H) and `attn2` (H, 1)."""

    hidden: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[Linear, Linear]:
        layer = lambda inputs, features, name: LinearWeights(inputs, features, param_dtype=self.param_dtype, name=name)()
        return layer(2 * self.hidden, self.hidden, "attn1"), layer(self.hidden, 1, "attn2")


class Embedding(nn.Module):
    """Parameter `embedding` (symbols, width), standard normal as torch.nn.Embedding starts."""

    symbols: int
    width: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> Float[Array, "k e"]:
        return self.param("embedding", nn.initializers.normal(1.0), (self.symbols, self.width), self.param_dtype)


class AttentionDecoder(nn.Module):
    """Writes symbols from a memory.

    Attributes:
      symbols: their number.
      embed, hidden, layers: width of the embedding, of the states, and GRU layers.
      dropout: of embeddings and between layers, in training.
      start: the symbol that is fed first.
    """

    symbols: int
    hidden: int
    embed: int = 256
    layers: int = 3
    dropout: float = 0.2
    start: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def weights(self) -> Weights:
        attn1, attn2 = Attention(self.hidden, self.param_dtype, name="attention")()
        gru = GRU(self.embed + self.hidden, self.hidden, self.layers, param_dtype=self.param_dtype, name="gru")
        return Weights(
            Embedding(self.symbols, self.embed, self.param_dtype, name="embed")(),
            attn1,
            attn2,
            gru.weights(),
            LinearWeights(2 * self.hidden, self.symbols, param_dtype=self.param_dtype, name="out")(),
        )

    def stepper(self, memory: Memory):
        """A function (symbols (b,), states (n, b, h), dropout key or None) -> (log-probabilities (b, k), states, attention (b, t))."""
        weights, dtype = self.weights(), self.dtype
        of_memory, of_state = jnp.split(weights.attn1.kernel, 2)
        read = Linear(of_memory, weights.attn1.bias)(memory.values, dtype)

        def dropped(x, key):
            return x if key is None else drop(key, x, self.dropout)

        def step(symbol, states, key):
            keys = [None] * self.layers if key is None else list(jax.random.split(key, self.layers))
            embedded = dropped(weights.embed[symbol].astype(jnp.float32), keys[0])
            state = jnp.dot(states[-1].astype(dtype), of_state.astype(dtype), preferred_element_type=jnp.float32)
            score = weights.attn2(jnp.tanh(read + state[:, None]), dtype)[..., 0]
            attention = jax.nn.softmax(jnp.where(memory.shown, score, -jnp.inf), axis=-1)
            context = jnp.einsum("bt,bth->bh", attention, memory.values.astype(jnp.float32))
            x, new = jnp.concatenate([embedded, context], -1), []
            for layer, (cell,) in enumerate(weights.gru):
                x = cell(cell.ih(dropped(x, keys[layer]) if layer else x, dtype), states[layer], dtype)
                new.append(x)
            logits = weights.out(jnp.concatenate([x, context], -1), dtype)
            return jax.nn.log_softmax(logits), jnp.stack(new), attention

        return step

    def __call__(
        self,
        memory: Memory,
        states: Float[Array, "n b h"],
        steps: int,
        *,
        text: Int[Array, "b l"] | None = None,
        taught: Bool[Array, "l"] | None = None,
        sample: Array | None = None,
        train: bool = False,
    ) -> Written:
        """`steps` symbols, each decided by the ones fed before it.

        Args:
          text: the truth, (b, steps).
          taught: at which steps its symbol is fed on, rather than the decoder's own; None: at all when there is a text.
          sample: key by which the own symbols are drawn from their probabilities; None takes the most probable.
          train: with dropout.
        """
        step = self.stepper(memory)
        noise = self.make_rng("dropout") if train and self.dropout else None
        if text is not None:
            text, taught = jnp.asarray(text), jnp.ones(steps, bool) if taught is None else jnp.asarray(taught)

        def body(carry, t):
            symbol, states = carry
            key = lambda base: None if base is None else jax.random.fold_in(base, t)
            log_probs, states, _ = step(symbol, states, key(noise))
            own = log_probs.argmax(-1) if sample is None else jax.random.categorical(key(sample), log_probs)
            fed = own if text is None else jnp.where(taught[t], text[:, t], own)
            return (fed.astype(jnp.int32), states), (log_probs, own.astype(jnp.int32))

        first = jnp.full(memory.values.shape[:1], self.start, jnp.int32)
        _, (log_probs, symbols) = jax.lax.scan(body, (first, states), jnp.arange(steps))
        return Written(log_probs.swapaxes(0, 1), symbols.swapaxes(0, 1))

    def beam(
        self, memory: Memory, states: Float[Array, "n b h"], steps: int, width: int, end: int
    ) -> tuple[Int[Array, "b l"], Float[Array, "b"]]:
        """The best of `width` texts kept at each step, and its log-probability a symbol, the `end` included; what follows the end is 0.

        Texts are compared by the sum of log-probabilities while they grow, and by its mean over their symbols at last.
        """
        batch, symbols = memory.values.shape[0], self.symbols
        wide = lambda x, axis=0: jnp.repeat(x, width, axis=axis)
        step = self.stepper(Memory(*(wide(part) for part in memory)))
        idle = jnp.where(jnp.arange(symbols) == 0, 0.0, -jnp.inf)
        rows = jnp.arange(batch)[:, None] * width

        def body(carry, t):
            symbol, states, score, length, ended, written = carry
            log_probs, states, _ = step(symbol.reshape(-1), states, None)
            following = jnp.where(ended[..., None], idle, log_probs.reshape(batch, width, symbols))
            score, best = jax.lax.top_k((score[..., None] + following).reshape(batch, -1), width)
            parent, symbol = best // symbols, (best % symbols).astype(jnp.int32)
            take = lambda x: jnp.take_along_axis(x, parent, axis=1)
            states = jnp.take(states, (rows + parent).reshape(-1), axis=1)
            ended, length = take(ended), take(length)
            length = jnp.where(ended, length, length + 1)
            written = jnp.take_along_axis(written, parent[..., None], axis=1).at[:, :, t].set(symbol)
            return (symbol, states, score, length, ended | (symbol == end), written), None

        start = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)
        carry = (
            jnp.full((batch, width), self.start, jnp.int32),
            wide(states, 1),
            jnp.broadcast_to(start, (batch, width)),
            jnp.zeros((batch, width), jnp.int32),
            jnp.zeros((batch, width), bool),
            jnp.zeros((batch, width, steps), jnp.int32),
        )
        (_, _, score, length, _, written), _ = jax.lax.scan(body, carry, jnp.arange(steps))
        mean = score / jnp.maximum(length, 1)
        best = mean.argmax(-1)
        return written[jnp.arange(batch), best], mean[jnp.arange(batch), best]
