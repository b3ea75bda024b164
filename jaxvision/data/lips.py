"""Procedural clips of a speaking mouth with the text that it says: something to read from lips without a download.

Each letter has a mouth, by its viseme: how far it opens, how wide and how round it is, whether teeth or tongue show. Letters of one viseme (B, M, P)
look the same, so that some words are told apart by the rest of them and by which words there are. A mouth moves from letter to letter smoothly; each
speaker has a place, a size, a skin and a speed of his own. `difficulty`, 0..1, blurs the letters into each other, varies mouths and adds noise.

"words": one of forty words of 3 to 6 letters. "sentences": of the grammar of GRID (Cooke et al. 2006), such as BIN BLUE AT F TWO NOW.

A clip is a pure function of (seed, its number).
"""

import numpy as np
from jaxtyping import Float, UInt8

from jaxvision.data.source import ArraySource
from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.text.vocabulary import encode, vocabulary

_STREAM = 9  # see order.py
# Letters of one look, and the mouth: opening, width, pout, teeth, tongue; each 0..1.
VISEMES = {
    "BMP": (0.0, 0.6, 0.1, 0.0, 0.0),
    "FV": (0.1, 0.7, 0.0, 1.0, 0.0),
    "AH": (1.0, 0.6, 0.0, 0.2, 0.3),
    "EIY": (0.35, 1.0, 0.0, 0.8, 0.1),
    "O": (0.7, 0.25, 0.8, 0.0, 0.0),
    "UWQ": (0.25, 0.1, 1.0, 0.0, 0.0),
    "LN": (0.5, 0.6, 0.1, 0.3, 1.0),
    "TDSZ": (0.2, 0.75, 0.1, 1.0, 0.4),
    "KGCXJ": (0.4, 0.5, 0.3, 0.4, 0.0),
    "R": (0.3, 0.35, 0.6, 0.5, 0.5),
    " ": (0.03, 0.5, 0.0, 0.0, 0.0),
}
MOUTHS = {letter: np.array(mouth) for letters, mouth in VISEMES.items() for letter in letters}
WORDS = (
    "ABOUT ALONG BIRD BLACK BREAD BUS CLOUD DREAM EARTH FIELD FISH GREEN HAND HOUSE LEMON LIGHT MAP MAT MOUSE MUSIC "
    "NIGHT ORANGE PAPER PAT PLANT QUEEN RAIN RIVER ROAD SALT SEVEN SHIP SNOW STONE SUMMER TABLE TRAIN VOICE WINTER WOOD"
).split()
SENTENCE = (
    ("BIN", "LAY", "PLACE", "SET"),
    ("BLUE", "GREEN", "RED", "WHITE"),
    ("AT", "BY", "IN", "WITH"),
    tuple("ABCDEFGHIJKLMNOPQRSTUVXYZ"),
    ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"),
    ("AGAIN", "NOW", "PLEASE", "SOON"),
)
KINDS = {
    "words": lambda rng: WORDS[rng.randint(len(WORDS))],
    "sentences": lambda rng: " ".join(words[rng.randint(len(words))] for words in SENTENCE),
}


def mouths_over_time(text: str, frames: int, rng: np.random.RandomState, difficulty: float) -> Float[np.ndarray, "t m"]:
    """The mouth at each frame of a clip of at most `frames`: letters of 2 to 5 frames, shorter where they would not fit, in smooth transition."""
    spoken = f" {text} "
    pace = rng.uniform(2.6, 4.0) * rng.uniform(1 - 0.3 * difficulty, 1 + 0.3 * difficulty, len(spoken))
    pace *= min(1.0, (frames - 1) / pace.sum())
    middle = np.cumsum(pace) - pace / 2
    length = min(frames, int(np.ceil(pace.sum())))
    targets = np.stack([MOUTHS[letter] for letter in spoken])
    targets = np.clip(targets + rng.normal(0, 0.12 * difficulty, targets.shape), 0, 1)
    # Each frame is between letters: a soft choice by distance in time, wider where articulation is sloppy.
    reach = pace.mean() * (0.28 + 0.25 * difficulty)
    near = np.exp(-0.5 * ((np.arange(length)[:, None] + 0.5 - middle) / reach) ** 2) + 1e-9
    return near @ targets / near.sum(1, keepdims=True)


def drawn(mouths: Float[np.ndarray, "t m"], size: tuple[int, int], rng: np.random.RandomState, difficulty: float) -> UInt8[np.ndarray, "t h w 1"]:
    """The frames: skin, lips as a ring, a dark mouth with teeth and tongue."""
    height, width = size
    opening, wide, pout, teeth, tongue = (mouths[:, i, None, None] for i in range(5))
    skin, lips = rng.uniform(0.6, 0.8), rng.uniform(0.3, 0.45)
    grow, y0, x0 = rng.uniform(0.85, 1.1), *rng.uniform(-0.12, 0.12, 2) * (0.5 + difficulty)
    y, x = np.meshgrid(np.linspace(-1, 1, height) - y0, np.linspace(-1, 1, width) - x0, indexing="ij")
    across, down = grow * (0.32 + 0.5 * wide - 0.1 * pout), grow * (0.05 + 0.6 * opening)
    rim = grow * (0.16 + 0.16 * pout)
    soft = 2.5 / min(height, width)

    def inside(a, b):
        """1 within the ellipse, falling to 0 over about a pixel."""
        return np.clip((1 - np.sqrt((x / a) ** 2 + (y / b) ** 2)) * np.minimum(a, b) / soft + 0.5, 0, 1)

    frame = np.broadcast_to(skin + 0.05 * y, (len(mouths), height, width))
    ring, hole = inside(across + rim, down + rim), inside(across, down)
    frame = frame * (1 - ring) + lips * ring
    dark = 0.08 + 0.75 * teeth * (y < -0.25 * down) + 0.35 * tongue * (y > 0.2 * down)
    frame = frame * (1 - hole) + dark * hole
    frame = frame + rng.normal(0, 0.01 + 0.16 * difficulty, frame.shape)
    return np.round(255 * np.clip(frame, 0, 1)).astype(np.uint8)[..., None]


def spoken(seed: int, number: int, size: tuple[int, int, int], kind: str = "words", difficulty: float = 0.5, part: int = 0):
    """(frames (t, H, W, 1) uint8 with t <= size[0], text) of one clip. `part` keeps training and test clips apart."""
    # RandomState is frozen by numpy: the same clips under every release.
    rng = np.random.RandomState(np.random.SeedSequence([seed, _STREAM, part, number]).generate_state(4))
    text = KINDS[kind](rng)
    return drawn(mouths_over_time(text, size[0], rng, difficulty), size[1:], rng, difficulty), text


def open_lips(
    split: str, count: int, size: tuple[int, ...], kind: str, difficulty: float, text_length: int, seed: int
) -> ArraySource:
    """`count` clips of split "train" or "test", in memory: clip (N, T, H, W, 1), length (N,), text (N, L), see tasks/text/vocabulary.py.

    Raises ConfigError for another split or kind, a size that holds no mouth, a difficulty outside 0..1; DataError for texts longer than text_length.
    """
    parts = {"train": 0, "test": 1}
    if split not in parts:
        raise ConfigError(f"lips has no split {split!r}; {nearest(split, parts)}")
    if kind not in KINDS:
        raise ConfigError(f"data.name {kind!r} is no kind of spoken text; {nearest(kind, KINDS)}")
    if count < 1 or len(size) != 3 or min(size) < 8:
        shown = "x".join(map(str, size))
        raise ConfigError(f"lips cannot be {count} clips of {shown}; set data.size=(frames, height, width), each at least 8")
    if not 0 <= difficulty <= 1:
        raise ConfigError(f"data.difficulty={difficulty} goes from 0, clean, to 1")
    symbols = vocabulary("letters")
    clip, length = np.zeros((count, *size, 1), np.uint8), np.zeros(count, np.int32)
    text = np.zeros((count, text_length), np.int32)
    for number in range(count):
        frames, words = spoken(seed, number, tuple(size), kind, difficulty, parts[split])
        clip[number, : len(frames)], length[number] = frames, len(frames)
        text[number] = encode(words, symbols, text_length, f"lips[{number}]")
    return ArraySource(f"lips/{kind}/{split}", {"clip": clip, "length": length, "text": text}, symbols)
