"""The notebooks run from the first cell to the last, as a reader runs them: in a kernel of their own, from the folder they lie in."""

import base64
import io
import re

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.runs import ROOT, command

COLABS = ROOT / "colabs"
NOTEBOOKS = sorted(COLABS.glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def execute(path, **settings):
    """The notebook with outputs, its cell of settings replaced. Raises at the first cell that does."""
    notebook = read(path)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    environment = {name: value for name, value in command()["env"].items() if name != "MPLBACKEND"}  # notebooks choose their own
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(COLABS)}})
    return client.execute(env=environment)


def pictures(cell):
    found = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")) for png in found]


def text(cell):
    """What a cell printed and returned."""
    parts = [output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(parts)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """{cell id: cell} of the executed notebook."""
    workdir = tmp_path_factory.mktemp("quickstart") / "run"
    notebook = execute(COLABS / "quickstart.ipynb", epochs=1, workdir=str(workdir))
    return {cell.id: cell for cell in notebook.cells}


@pytest.mark.timeout(240)
def test_the_quickstart_shows_digits_curves_confusion_attention_mistakes_and_its_own_drawing(quickstart):
    shown = {name: pictures(cell) for name, cell in quickstart.items() if cell.cell_type == "code"}
    assert {name: len(found) for name, found in shown.items() if found} == {
        "data": 1,
        "figures": 2,
        "attention": 1,
        "mistakes": 1,
        "predict": 1,
    }
    for name, found in shown.items():
        for picture in found:
            assert min(picture.shape[:2]) > 100 and len(np.unique(picture)) > 50, f"{name} shows {picture.shape} of {len(np.unique(picture))} values"


@pytest.mark.timeout(240)
def test_what_the_quickstart_says_of_its_model_agrees_from_cell_to_cell(quickstart):
    assert "5,717,416" in text(quickstart["models"])
    accuracy = float(re.search(r"'test/accuracy': ([\d.]+)", text(quickstart["fit"]))[1])
    assert f"{accuracy:.1%} of 360" in text(quickstart["load"])
    assert f"{round(360 * (1 - accuracy))} mistakes in 360" in text(quickstart["mistakes"])
    assert f"finished already at step 45: test/accuracy {accuracy:.4g}" in text(quickstart["again"])
    assert re.search(r"my_digit\.png,\d,0\.\d+", text(quickstart["predict"]))


@pytest.mark.timeout(240)
def test_the_quickstart_installs_nothing_where_the_library_is_at_hand(quickstart):
    assert quickstart["install"].outputs == [] and "%pip install" in quickstart["install"].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_valid_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None), f"{path.name}, cell {cell.id} has outputs"
