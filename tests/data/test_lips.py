import numpy as np
import pytest

from jaxvision.data import Clip, TrainStream, open_source
from jaxvision.data.lips import MOUTHS, WORDS, mouths_over_time, open_lips, spoken
from jaxvision.errors import ConfigError, DataError
from jaxvision.tasks.text.vocabulary import decode

DATA = {"source": "lips", "name": "words", "count": 16, "size": (24, 16, 16), "difficulty": 0.5, "text_length": 9}


def test_a_clip_is_a_pure_function_of_seed_and_number_and_shows_its_text():
    frames, text = spoken(0, 3, (24, 16, 16))
    again, same = spoken(0, 3, (24, 16, 16))
    np.testing.assert_array_equal(frames, again)
    assert text == same in WORDS and frames.dtype == np.uint8 and len(frames) <= 24
    assert any(spoken(0, number, (24, 16, 16))[1] != spoken(0, number, (24, 16, 16), part=1)[1] for number in range(5))


@pytest.mark.parametrize("text", ["BAT", "SEVEN"])
def test_without_difficulty_every_letter_s_mouth_is_seen_in_order(text):
    mouths = mouths_over_time(text, 40, np.random.RandomState(0), 0.0)
    nearest = [np.abs(mouths - MOUTHS[letter]).sum(1).argmin() for letter in text]
    assert all(np.abs(mouths[place] - MOUTHS[letter]).max() < 0.25 for place, letter in zip(nearest, text))
    assert nearest == sorted(nearest) or text == "SEVEN"  # whose two E's look the same


def test_letters_of_one_viseme_look_the_same():
    assert np.array_equal(MOUTHS["B"], MOUTHS["P"]) and not np.array_equal(MOUTHS["B"], MOUTHS["F"])
    assert len(set(WORDS)) == 40 and all(3 <= len(word) <= 6 for word in WORDS)


def test_difficulty_adds_noise_and_blurs_letters():
    easy, hard = (spoken(0, 1, (24, 16, 16), difficulty=d)[0].astype(float) for d in (0.0, 1.0))
    rough = [np.abs(np.diff(clip[:, :2], axis=2)).mean() for clip in (easy, hard)]
    assert rough[1] > 5 * rough[0]
    spread = [mouths_over_time("MAMA", 24, np.random.RandomState(0), d)[:, 0].std() for d in (0.0, 1.0)]
    assert spread[1] < spread[0]


def test_sentences_are_grid_s():
    text = spoken(0, 0, (75, 16, 16), "sentences")[1].split()
    assert len(text) == 6 and text[0] in ("BIN", "LAY", "PLACE", "SET") and len(text[3]) == 1


def test_batches_come_from_memory_with_length_and_text():
    source = open_source(DATA, "train", seed=0)
    batch = next(TrainStream(source, batch_size=4, image=Clip((24, 16, 16), "none", channels=1), seed=0))
    assert batch["clip"].shape == (4, 24, 16, 16, 1) and decode(batch["text"][0], source.classes) in WORDS
    assert all(not clip[length:].any() and clip[length - 1].any() for clip, length in zip(batch["clip"], batch["length"]))
    with pytest.raises(DataError, match=r"lips/words/train\[0\], … are \(24, 16, 16\), image_size is \(24, 8, 8\)"):
        TrainStream(source, batch_size=4, image=Clip((24, 8, 8)), seed=0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "wrods"}, "did you mean 'words'"),
        ({"size": (16, 16)}, r"set data.size=\(frames, height, width\)"),
        ({"difficulty": 2}, "data.difficulty=2"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(changes, message):
    with pytest.raises(ConfigError, match=message):
        open_source(DATA | changes, "train", seed=0)
    with pytest.raises(DataError, match=r"do not fit into data.text_length=5"):
        open_lips("train", 40, (24, 16, 16), "words", 0.5, 5, 0)
    with pytest.raises(ConfigError, match=r"no split 'val'"):
        open_source(DATA, "val", seed=0)
