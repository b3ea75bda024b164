import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.nn.seq2seq import AttentionDecoder, Memory

SYMBOLS, STEPS = 5, 3
DECODER = AttentionDecoder(SYMBOLS, hidden=6, embed=4, layers=2, dropout=0.0)
VALUES = np.random.RandomState(0).standard_normal((2, 4, 6)).astype(np.float32)
MEMORY = Memory(VALUES, np.array([[True] * 4, [True, True, False, False]]))
STATES = np.random.RandomState(1).standard_normal((2, 2, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    made = DECODER.init(jax.random.key(0), MEMORY, STATES, STEPS)
    return jax.tree.map(lambda leaf: 2 * leaf, made)  # probabilities that differ


def run(params, *args, **kwargs):
    return DECODER.apply(params, *args, **kwargs)


def test_attention_is_a_distribution_over_the_frames_that_are_shown(params):
    attention = DECODER.apply(params, method=lambda decoder: decoder.stepper(MEMORY)(jnp.array([1, 2]), STATES, None)[2])
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-6)
    assert (np.asarray(attention)[1, 2:] == 0).all() and (np.asarray(attention)[0] > 0).all()


def test_feeding_its_own_choices_as_the_truth_is_greedy_decoding(params):
    greedy = run(params, MEMORY, STATES, STEPS)
    taught = run(params, MEMORY, STATES, STEPS, text=greedy.symbols)
    np.testing.assert_allclose(taught.log_probs, greedy.log_probs, rtol=1e-6)
    wrong = (greedy.symbols + 1) % SYMBOLS
    never = run(params, MEMORY, STATES, STEPS, text=wrong, taught=jnp.zeros(STEPS, bool))
    np.testing.assert_array_equal(never.log_probs, greedy.log_probs)
    first = run(params, MEMORY, STATES, STEPS, text=wrong, taught=jnp.array([True, False, False]))
    np.testing.assert_array_equal(first.log_probs[:, 0], greedy.log_probs[:, 0])
    assert np.abs(first.log_probs[:, 1] - greedy.log_probs[:, 1]).max() > 1e-3


def test_sampled_symbols_have_the_probabilities_of_the_decoder(params):
    draw = jax.jit(jax.vmap(lambda key: run(params, MEMORY, STATES, STEPS, sample=key).symbols[:, 0]))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    share = np.stack([(drawn == k).mean(0) for k in range(SYMBOLS)], -1)
    np.testing.assert_allclose(share, np.exp(run(params, MEMORY, STATES, 1).log_probs[:, 0]), atol=0.03)


def best_by_trying_all(params, end):
    """The text of STEPS symbols with the best mean log-probability up to its end."""
    best = [(-np.inf, None)] * 2
    score = jax.jit(lambda text: run(params, MEMORY, STATES, STEPS, text=text).log_probs)
    for text in itertools.product(range(SYMBOLS), repeat=STEPS):
        length = text.index(end) + 1 if end in text else STEPS
        if any(text[length:]):
            continue
        log_probs = np.asarray(score(jnp.tile(jnp.array(text), (2, 1))))
        for row in range(2):
            mean = sum(log_probs[row, t, text[t]] for t in range(length)) / length
            best[row] = max(best[row], (mean, text))
    return best


def test_a_wide_beam_finds_the_best_text_and_a_narrow_one_the_greedy(params):
    beam = jax.jit(lambda width: DECODER.apply(params, MEMORY, STATES, STEPS, width, 2, method="beam"), static_argnums=0)
    texts, means = beam(SYMBOLS**2)
    for (mean, text), ours, score in zip(best_by_trying_all(params, 2), texts, means):
        assert tuple(ours.tolist()) == text and score == pytest.approx(mean, rel=1e-5)
    greedy = np.asarray(run(params, MEMORY, STATES, STEPS).symbols)
    ended = np.cumsum(greedy == 2, 1) - (greedy == 2) > 0
    np.testing.assert_array_equal(beam(1)[0], np.where(ended, 0, greedy))
