import numpy as np
import pytest

from jaxvision.data import ArraySource, Decode
from jaxvision.data.replay import ReplayStream, chunk_draws
from jaxvision.errors import ConfigError

SOURCE = ArraySource("numbers", {"image": np.arange(200, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2), "label": np.arange(200)})


def stream(position=0, step=0, **changes):
    settings = {"batch_size": 16, "uses": 2, "remembered": 3, "image": Decode((4, 4), crop="none", channels=None), "seed": 5, **changes}
    return ReplayStream(SOURCE, position=position, step=step, **settings)


def take(replayed, count):
    return [next(replayed) for _ in range(count)]


def test_half_of_each_batch_is_fresh_and_the_rest_was_seen_within_the_window():
    replayed = stream()
    batches = take(replayed, 8)
    assert replayed.position == 64 and all(len(batch["index"]) == 16 and batch["valid"].all() for batch in batches)
    fresh = [batch["index"][:8] for batch in batches]
    assert len(np.unique(np.concatenate(fresh))) == 64
    for step, batch in enumerate(batches):
        assert set(batch["index"][8:]) <= set(np.concatenate(fresh[max(0, step - 2) : step + 1]))
        np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0])
    assert set(batches[0]["index"][8:]) <= set(fresh[0])  # the buffer begins empty


def test_resumed_anywhere_it_draws_the_same_and_reads_again_what_it_forgot():
    batches = take(stream(), 8)
    for step in (1, 4, 6):
        for ours, theirs in zip(take(stream(position=8 * step, step=step), 8 - step), batches[step:]):
            for key in theirs:
                np.testing.assert_array_equal(ours[key], theirs[key])


def test_each_process_replays_its_own_rows():
    parts = [stream(process_index=process, process_count=2) for process in (0, 1)]
    seen = [np.concatenate([batch["index"] for batch in take(part, 5)]) for part in parts]
    assert not set(seen[0]) & set(seen[1]) and len(seen[0]) == 5 * 8


def test_draws_cover_window_and_chunks_evenly_and_with_replacement():
    draws = np.concatenate([chunk_draws(0, 0, step, 32, 4, 8) for step in range(10, 60)])
    age = np.repeat(np.arange(10, 60), 32) - draws[:, 0]
    np.testing.assert_allclose(np.bincount(age, minlength=4) / len(age), 0.25, atol=0.05)
    np.testing.assert_allclose(np.bincount(draws[:, 1], minlength=8) / len(age), 0.125, atol=0.04)
    one = chunk_draws(0, 0, 20, 32, 4, 8)
    assert len({tuple(row) for row in one.tolist()}) < 32


def test_uses_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ConfigError, match="divide"):
        stream(uses=3)
