"""--mode=preflight from the command line: what is said before anything is compiled, and compiled for four chips that are not there."""

import importlib.util
import json

import jax
import pytest

from jaxvision.errors import ConfigError, OutOfTimeError
from jaxvision.train.preflight import programs
from jaxvision.train.preflight.chips import chip_of
from jaxvision.train.preflight.mode import kinds_of
from jaxvision.train.preflight.topology import Topology, open_topology
from tests.runs import TINY, run, tiny

CONFIG = '''
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({tree!r})
'''


def test_topology_that_cannot_be_is_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="the chip 'v5x' is unknown; did you mean"):
        open_topology("v5x:2x2")
    with pytest.raises(ConfigError, match="the number of chips is missing"):
        open_topology("v5e")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the compiler for it: pip install 'jaxvision\[preflight\]'"):
        open_topology("v5e:2x2")


def test_preflight_without_topology_is_asked_for_it(capsys):
    from jaxvision.main import main

    assert main(["--mode=preflight", "--config=configs/vit.py:digits"]) == 2
    assert "--mode=preflight needs --topology" in capsys.readouterr().err


def test_programs_of_a_run_are_those_of_each_phase_and_stage_and_need_no_data():
    # Devices of this host stand in for a topology: nothing is compiled here.
    here = Topology("here", chip_of("v5e:1x1"), tuple(jax.devices()[:1]))
    config = tiny(
        data={"source": "tfds", "name": "imagenet2012", "test": "validation", "crop": "random_resized"},
        phases=({"until": 3, "size": 4, "crop": "resize"}, {"until": 8}),
        stages=(("teacher", {}), ("student", {"phases": (), "frozen": {"teacher": {"source": "stage:teacher"}}})),
        augment={},
    )
    notes: list[str] = []
    found = programs.setups(config, here, notes)
    assert notes == ["data: tfds cannot be opened here; taken as declared"]
    names = [program.name for name, setup in found.items() for program in programs.programs(name, setup)]
    assert names == [
        "teacher: train 4x4",
        "teacher: eval 4x4",
        "teacher: init",
        "teacher: resize 8x8",
        "teacher: train 8x8",
        "teacher: eval 8x8",
        "student: train 8x8",
        "student: eval 8x8",
        "student: init",
    ]
    # The student's frozen teacher is as large as the network that the first stage trains.
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert size(found["student"].state_shapes.frozen["teacher"]["params"]) == size(found["teacher"].state_shapes.params)
    teacher, student = programs.outline(found)
    assert teacher["train_size"] == 1_281_167 and teacher["evaluation_steps"] == 417
    assert [(phase["steps"], phase["size"]) for phase in teacher["phases"]] == [(3, [4, 4]), (5, [8, 8])]
    assert student["parameters"] == size(found["student"].state_shapes.params)


class Phase:
    size = (8, 8)


class Setup:
    phase = Phase


def fake_programs(compiled, *kinds_and_texts):
    """Programs whose texts are given; those that are compiled are noted in `compiled`."""

    class Lowered:
        def __init__(self, text):
            self.text = text

        def as_text(self):
            return self.text

        def compile(self, options):
            assert options == {}
            compiled.append(self.text)
            return jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32")).compile()

    return iter(programs.Program("", 0, kind, None, Setup, Lowered(text)) for kind, text in kinds_and_texts)


def test_figures_are_kept_by_the_programs_text(tmp_path, monkeypatch):
    here = Topology("here", chip_of("v5e:1x1"), tuple(jax.devices()[:1]))
    monkeypatch.setattr(programs, "AT_ONCE", 1)
    compiled = []
    every = lambda: fake_programs(compiled, ("train", "a"), ("eval", "b"), ("init", "a"))
    first = programs.compile_all(every(), here, tmp_path, lambda line: None)
    assert sorted(compiled) == ["a", "b"] and [row["kind"] for row in first] == ["train", "eval", "init"]
    second = programs.compile_all(every(), here, tmp_path, lambda line: None)
    assert len(compiled) == 2 and second == first
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert first[0]["flops"] == 2 * 8**3


def test_when_the_minutes_are_over_nothing_more_is_begun_and_what_is_kept_still_counts(tmp_path):
    here, compiled = Topology("here", chip_of("v5e:1x1"), tuple(jax.devices()[:1])), []
    programs.compile_all(fake_programs(compiled, ("train", "a")), here, tmp_path, lambda line: None)
    both = lambda: fake_programs(compiled, ("train", "a"), ("eval", "b"))
    with pytest.raises(OutOfTimeError, match="0 min were over before eval 8x8 could be begun: what is compiled is kept, and the same"):
        programs.compile_all(both(), here, tmp_path, lambda line: None, minutes=0)
    assert compiled == ["a"]


def test_long_compilation_is_spoken_of(tmp_path, monkeypatch):
    here, compiled, lines = Topology("here", chip_of("v5e:1x1"), tuple(jax.devices()[:1])), [], []
    monkeypatch.setattr(programs, "SPOKEN", 0.001)
    monkeypatch.setattr(programs, "LONGEST_COMPILE", 0.0)
    programs.compile_all(fake_programs(compiled, ("train", "a")), here, None, lines.append)
    assert any(line.startswith("  compiling train 8x8 for 0 min (--config.model.scan=True") and "0 of 1 programs done" in line for line in lines)


@pytest.mark.parametrize("kinds, message", [(("trian",), "has 'trian'; did you mean 'train'?"), (("eval",), "leaves out 'train'")])
def test_programs_that_are_asked_for_are_checked(kinds, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        kinds_of(tiny(preflight={"programs": kinds}))


def _config(folder, **changes):
    tree = {
        **TINY,
        "batch_size": 16,
        "eval_batch_size": 16,
        "compilation_cache": str(folder / "cache"),
        "mesh": {"data": -1},
        "model": {**TINY["model"], "depth": 2, "drop_path": 0.0, "dtype": "bfloat16"},
        "augment": {},
        "optim": {"lr": 1e-3},
    }
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(tree=tree | changes))
    return path


@pytest.mark.aot
@pytest.mark.timeout(300)
def test_tiny_vit_on_four_chips_fits_and_sums_its_gradients(tmp_path):
    done = run("--mode=preflight", "--topology=v5e:2x2", f"--config={_config(tmp_path)}", f"--workdir={tmp_path / 'run'}", timeout=290)
    assert done.returncode == 0, done.stderr
    assert "train 8x8" in done.stdout and done.stdout.rstrip().endswith("fits")
    found = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert found["fits"] and (found["chips"], found["chip"], found["batch_per_chip"]) == (4, "v5e", 4.0)
    assert set(found["collectives"]) == {"all-reduce"}
    # Gradients of all parameters, in float32 or less, in padded tiles.
    assert 2 * found["parameters"] < found["collectives"]["all-reduce"]["bytes"] < 64 * 4 * found["parameters"]
    assert 0 < found["share_of_peak"] < 1 and found["predicted_step_seconds"] > 0 and 0 < found["temporaries_bytes"] < 2**28
    assert [row["kind"] for row in found["programs"]] == ["train", "eval", "init"]
    assert len(list((tmp_path / "cache" / "preflight").glob("*.json"))) == 3


@pytest.mark.aot
@pytest.mark.timeout(300)
def test_batch_that_exceeds_the_chip_ends_with_exit_code_3(tmp_path):
    # 2^22 images of one chip: the first layer's output alone is 2^22 x 4 tokens in tiles of 8 x 128.
    path = _config(tmp_path, batch_size=2**22, mesh={"data": 1})
    done = run("--mode=preflight", "--topology=v5e:1x1", f"--config={path}", f"--workdir={tmp_path / 'run'}", timeout=290)
    assert done.returncode == 3, done.stderr
    assert "does not fit v5e:1x1: train 8x8 needs" in done.stderr and "--config.batch_size=" in done.stderr
    assert json.loads((tmp_path / "run" / "preflight.json").read_text())["fits"] is False
