"""Paper 10, small: layers that start as convolutions learn from few pictures what plain attention does not."""

import pathlib

import pytest

import jaxvision
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "convit.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache="]


def reached(arm: str, pictures: int, folder: pathlib.Path) -> dict[str, float]:
    config = load_config(f"{CONFIG}:demo,{arm}", [*HERE, f"--config.data.limit={pictures}"])
    return jaxvision.fit(config, str(folder / f"{arm}_{pictures}"), report=lambda line: None)


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_positional_layers_gain_most_where_pictures_are_few(tmp_path):
    seen = {(arm, n): 100 * reached(arm, n, tmp_path)["test/accuracy"] for n in (50, 1000) for arm in ("local", "random", "plain")}
    print({f"{arm}, {n} pictures": round(value, 1) for (arm, n), value in seen.items()})
    gain = {n: seen["local", n] - seen["plain", n] for n in (50, 1000)}
    assert gain[50] > 5 and gain[50] > gain[1000]
