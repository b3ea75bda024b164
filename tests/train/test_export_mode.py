import json

import numpy as np
import pytest

from jaxvision import fit
from jaxvision.errors import CheckpointError
from jaxvision.interop import load_exported
from jaxvision.main import main
from jaxvision.train import export_mode
from tests.runs import tiny

QUIET = {"report": lambda line: None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    fit(tiny(steps=2), workdir, **QUIET)
    return workdir


def test_an_exported_run_carries_names_and_constants_and_agrees_with_its_network(finished, tmp_path, capsys):
    assert main(["--mode=export", f"--workdir={finished}", f"--output={tmp_path / 'program'}"]) == 0
    line = capsys.readouterr().out
    assert "step 2" in line and float(line.split("by at most ")[1].split()[0]) < 1e-5
    about = json.loads((tmp_path / "program" / "export.json").read_text())
    assert about["classes"] == [str(i) for i in range(10)] and about["mean"] == [0.5] and about["image_size"] == [8, 8]
    assert load_exported(tmp_path / "program")(np.zeros((3, 8, 8, 1), np.float32)).shape == (3, 10)


def test_a_program_that_answers_otherwise_is_refused(finished, tmp_path, monkeypatch):
    load = export_mode.interop.load_exported
    monkeypatch.setattr(export_mode.interop, "load_exported", lambda folder: lambda image: load(folder)(image) * 1.01)
    with pytest.raises(CheckpointError, match=r"differs from the network by at most 0.01 of the largest output; 0.0001 is allowed"):
        export_mode.export(finished, output=tmp_path, **QUIET)


def test_a_run_is_exported_as_it_is(finished, capsys):
    assert main(["--mode=export", f"--workdir={finished}", "--config.seed=1"]) == 2
    assert "takes the run as it is" in capsys.readouterr().err
