import random

import jax
import numpy as np
import pytest

from jaxvision.errors import ConfigError, DataError
from jaxvision.tasks.text.distance import distances, error_rates, prefix_distances, text_of, until_end, words
from jaxvision.tasks.text.measures import bleu
from jaxvision.tasks.text.vocabulary import decode, encode, vocabulary

LETTERS = vocabulary("letters")


def plain(a, b):
    """Levenshtein's distance of two sequences, by the textbook's loops."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def texts(count, longest, seed, alphabet="ABC "):
    draw = random.Random(seed)
    return ["".join(draw.choice(alphabet) for _ in range(draw.randint(0, longest))) for _ in range(count)]


def rows(texts, length):
    return np.stack([encode(text, LETTERS, length) for text in texts])[:, 1:]


@pytest.fixture(scope="module")
def pairs():
    return texts(200, 9, 0), texts(200, 7, 1)


def test_distances_in_characters_and_words_are_those_of_a_plain_loop(pairs):
    ours, theirs = pairs
    rates = jax.jit(error_rates)(rows(ours, 12), rows(theirs, 9))
    cer = [plain(a, b) / max(1, len(b)) for a, b in zip(ours, theirs)]
    wer = [plain(a.split(" "), b.split(" ")) / len(b.split(" ")) for a, b in zip(ours, theirs)]
    np.testing.assert_allclose(rates.cer, cer, rtol=1e-6)
    np.testing.assert_allclose(rates.wer, wer, rtol=1e-6)
    np.testing.assert_array_equal(rates.same, [a == b for a, b in zip(ours, theirs)])


def test_a_table_holds_the_distance_of_every_prefix(pairs):
    ours, theirs = pairs
    table = np.asarray(jax.jit(lambda a, b: prefix_distances(text_of(a), text_of(b)))(rows(ours, 12), rows(theirs, 9)))
    assert table.shape == (200, 12)
    for row, a, b in zip(table, ours, theirs):
        wanted = [plain(a[:n], b) for n in range(len(a) + 1)]
        assert row[: len(wanted)].tolist() == wanted and (row[len(wanted) :] == wanted[-1]).all()


def test_text_ends_at_the_first_end_and_other_marks_are_passed_over():
    row = np.array([[4, 0, 1, 5, 2, 6, 2, 7]])
    assert decode(row[0], LETTERS) == "AB" and until_end(row)[0].tolist() == [True] * 5 + [False] * 3
    assert distances(text_of(row), text_of(rows(["AB"], 6))).tolist() == [0]
    assert distances(text_of(row), text_of(rows(["ABC"], 6))).tolist() == [1]


def test_words_are_told_apart_by_all_their_letters():
    draw = random.Random(0)
    different = sorted({"".join(draw.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(draw.randint(1, 6))) for _ in range(5000)})
    symbols = np.asarray(jax.jit(lambda a: words(text_of(a)).symbols[:, 0])(rows(different, 8)))
    assert len(set(symbols.tolist())) == len(different)


def test_bleu_of_words():
    assert bleu(["SET RED AT A ONE NOW"], ["SET RED AT A ONE NOW"]) == 1
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 quadruples.
    assert bleu(["SET RED AT A ONE SOON"], ["SET RED AT A ONE NOW"]) == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert bleu(["A B"], ["A B C D"]) == pytest.approx(np.exp(1 - 2)) and bleu(["A"], ["B"]) == 0 and bleu([""], ["B"]) == 0


def test_texts_that_do_not_fit_are_one_line():
    with pytest.raises(DataError, match=r"clip 3 reads 'A1': '1' is not in the vocabulary"):
        encode("A1", LETTERS, 9, "clip 3")
    with pytest.raises(DataError, match=r"4 characters and two marks do not fit into data.text_length=5"):
        encode("ABCD", LETTERS, 5)
    with pytest.raises(ConfigError, match="'letters'"):
        vocabulary("lettrs")
