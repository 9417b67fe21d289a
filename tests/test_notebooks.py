"""The notebooks of docs/tutorials run from their first cell to their last."""

import json
import os
import pathlib
import re
import sys

import pytest
from test_command_lines import ROOT
from test_packaging import needed

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the client and of its kernel
@pytest.mark.parametrize(
    "length", [pytest.param("whole", marks=pytest.mark.slow(ci=False)), "short"]
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, length, tmp_path, monkeypatch):
    nbclient, nbformat = (
        needed("nbclient", "notebooks"),
        needed("nbformat", "notebooks"),
    )
    needed("ipykernel", "notebooks")
    beside_python = pathlib.Path(sys.executable).parent  # where bert-jax is
    monkeypatch.setenv("PATH", f"{beside_python}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = path.read_text("utf-8")
    if length == "short":
        steps, both = r"--num-steps \d+", "--num-steps 2 --eval-batches 2"
        text, count = re.subn(steps, both, text)
        text = re.sub(r"--num-epochs \d+", "--num-epochs 2", text)
        assert count
    notebook = nbformat.reads(text, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_shown_with_its_output(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) > 4
    assert not [x for x in outputs if x["output_type"] == "error"]


def test_notebooks_in_one_folder_do_not_write_over_each_other():
    written = [
        name
        for path in NOTEBOOKS
        for name in set(re.findall(r"--output (\S+)", path.read_text("utf-8")))
    ]
    assert sorted(set(written)) == sorted(written)


def test_what_a_command_refuses_is_shown():
    texts = [path.read_text("utf-8") for path in NOTEBOOKS]
    shown = [x for text in texts for x in re.findall(r'grep -E \\"(.+?)\\"', text)]
    assert shown
    for pattern in shown:
        assert re.search(pattern, "bert-jax: finetune: names holds another run")
