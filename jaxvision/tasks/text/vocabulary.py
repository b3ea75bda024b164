"""Texts as integers: which symbols there are, and padded rows of their numbers.

A vocabulary is a tuple of symbols by number. The first three are marks: padding, the beginning of a text, and its end. A text of n characters is the
row [1, its characters, 2] followed by zeros. The classes of a source of texts are its vocabulary, so a checkpoint carries it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxvision.errors import ConfigError, DataError, nearest

MARKS = ("<pad>", "<start>", "<end>")
PAD, START, END = range(3)

VOCABULARIES = {
    # In the order of the first author's baselines: 30 symbols.
    "letters": (*MARKS, " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    # Of LRS2 and LRS3, whose transcripts have digits and apostrophes.
    "characters": (*MARKS, " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789", "'"),
}


def vocabulary(name: str) -> tuple[str, ...]:
    """The symbols of a vocabulary by name. Raises ConfigError that names the nearest."""
    if name not in VOCABULARIES:
        raise ConfigError(f"data.vocabulary {name!r} is unknown; {nearest(name, VOCABULARIES)}")
    return VOCABULARIES[name]


def encode(text: str, symbols: Sequence[str], length: int, name: str = "a text") -> Int[np.ndarray, "l"]:
    """The row of `length` numbers of a text, which is written in capitals. Raises DataError: an unknown character, or too long; `name` says whose."""
    numbers, text = {symbol: number for number, symbol in enumerate(symbols)}, text.upper()
    if unknown := [character for character in text if character not in numbers]:
        raise DataError(f"{name} reads {text!r}: {unknown[0]!r} is not in the vocabulary {''.join(symbols[len(MARKS):])!r}; see data.vocabulary")
    if len(text) + 2 > length:
        raise DataError(f"{name} reads {text!r}: {len(text)} characters and two marks do not fit into data.text_length={length}")
    row = np.zeros(length, np.int32)
    row[: len(text) + 2] = [START, *(numbers[character] for character in text), END]
    return row


def decode(row: Sequence[int], symbols: Sequence[str]) -> str:
    """The text of a row of numbers: up to the first end, without the other marks."""
    characters = []
    for number in np.asarray(row).tolist():
        if number == END:
            break
        if number >= len(MARKS):
            characters.append(symbols[number])
    return "".join(characters)
