import json

import pytest

from jaxvision.errors import ConfigError
from jaxvision.search import make_search, search
from jaxvision.search import run as room
from tests.runs import tiny

SETTINGS = {"name": "curriculum", "sizes": (4, 6, 8), "stages": 4, "tolerance": 0.01}


def searched(**changes):
    return tiny(epochs=8, search={**SETTINGS, **changes}, model__patch=2)


def sizes_of(config):
    return [phase["size"] for phase in config.phases] if config.phases else "baseline"


def walk(accuracy_of):
    """Sizes of all children, and what was found, where a child reaches accuracy_of(sizes)."""
    propose, history, tried = make_search(searched()), [], []
    while (child := propose(history)) is not None:
        tried.append(sizes_of(child))
        history.append({"number": len(history), "metrics": {"test/accuracy": accuracy_of(tried[-1])}})
    return tried, sizes_of(propose.found(history))


def test_each_stage_takes_the_smallest_size_that_still_reaches_the_baseline():
    """4 pixels are enough for one stage, 6 for the next two."""
    enough = lambda sizes: sizes == "baseline" or (sizes[1] >= 6 and sizes[2] >= 6)
    tried, found = walk(lambda sizes: 0.9 if enough(sizes) else 0.5)
    assert tried == ["baseline", [4, 8, 8, 8], [4, 4, 8, 8], [4, 6, 8, 8], [4, 6, 6, 8]]
    assert found == [4, 6, 6, 8]


def test_it_ends_where_no_smaller_size_is_enough_and_allows_the_tolerance():
    assert walk(lambda sizes: 0.9 if sizes == "baseline" else 0.5) == (["baseline", [4, 8, 8, 8], [6, 8, 8, 8]], "baseline")
    assert walk(lambda sizes: 0.9 if sizes == "baseline" else 0.895)[1] == [4, 4, 4, 8]


def test_children_are_trained_noted_and_not_trained_again(tmp_path, monkeypatch):
    trained = []

    def fit(config, workdir, report):
        trained.append(workdir.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return {"test/accuracy": 0.9}

    monkeypatch.setattr(room, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        search(searched(), tmp_path, report=lambda line: None)
    history = search(searched(), tmp_path, report=lambda line: None)
    assert trained == ["child_000", "child_001", "child_002", "child_002", "child_003"]
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == history
    found = json.loads((tmp_path / "found.json").read_text())
    assert [phase["size"] for phase in found["phases"]] == [4, 4, 4, 8] and found["phases"][0]["until"] == "2ep"
    with pytest.raises(ConfigError, match="another --workdir"):
        search(searched(sizes=(6, 8)), tmp_path, report=lambda line: None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"name": "curiculum"}, "curriculum"), ({"stage": 3}, "stages"), ({"sizes": (8,)}, "image_size=8"), ({"stages": 1}, "2 or more")],
)
def test_settings_that_make_no_sense_are_one_line(changes, named):
    with pytest.raises(ConfigError, match=named):
        make_search(searched(**changes))
