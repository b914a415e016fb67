"""The notebook runs from its text, in an empty folder, and shows its tables and pictures."""

import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

PAGE = Path(__file__).parents[1] / "docs" / "quickstart.md"


@pytest.mark.slow
@pytest.mark.usefixtures("several_processes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter, about itself
def test_the_notebook_runs_and_shows_what_it_is_about(tmp_path: Path) -> None:
    notebook = jupytext.read(PAGE)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [kind for output in outputs for kind in output.get("data", {}) if kind != "text/plain"]
    assert shown == ["image/png", "text/html", "image/png", "text/html", "image/png", "image/png"]
    streams = [(output.name, output.text) for output in outputs if output.output_type == "stream"]
    assert [name for name, _ in streams] == ["stdout"]
    lost, gained = map(float, re.findall(r" ([+-]\d+\.\d\d) ±", streams[0][1]))
    assert lost < -5  # of MobileNet-v1 on glyphs, as in Table 1
    assert gained > 3
    assert list(tmp_path.iterdir()) == []
