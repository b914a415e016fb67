"""The documentation as a site: built strictly, with links that work in the repository and on the site."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from helpers.scripts import script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("index.html", 'href="src/bnrecal/nbsmt/reference.py.html"'),
        ("index.html", 'href="operating-points.html#speed"'),
        ("index.html", 'src="figure1.png"'),
        ("custom.html", 'href="CONTRIBUTING.html#add-a-policy"'),
        ("CONTRIBUTING.html", 'href="custom.html#your-own-way-to-resolve-a-collision"'),
        ("CONTRIBUTING.html", 'href="src/bnrecal/nbsmt/engines/cpu/index.html"'),
        ("clusters.html", 'href="configs/launch/slurm.yaml.html"'),
        ("clusters.html", 'href="scripts/try_slurm.sh.html"'),
    ],
)
def test_links_lead_to_pages_of_the_site(site: Path, page: str, link: str) -> None:
    assert link in (site / page).read_text()
    target = link.split('"')[1].split("#")[0]
    assert (site / target).is_file()


@pytest.mark.slow
def test_the_reference_has_docstrings_examples_and_settings(site: Path) -> None:
    text = (site / "reference.html").read_text()
    assert "A copy of the network whose convolutions compute in 8 bits" in text
    assert 'id="bnrecal.api.Score.gain_over"' in text
    assert "the weight of a new batch, above 0 and up to 1" in text
    assert text.count("Examples:") >= 10


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return script("site_hooks")


def test_dead_links_and_addresses_are_left_as_they_are(hooks: ModuleType) -> None:
    find = hooks.repository_path
    assert find("docs/api.md", "custom.md") == "docs/custom.md"
    assert find("docs/custom.md", "../CONTRIBUTING.md") == "CONTRIBUTING.md"
    assert find("docs/api.md", "nowhere.md") is None
    assert find("docs/api.md", "https://example.org/custom.md") is None


def test_outputs_stand_after_their_cells(hooks: ModuleType) -> None:
    cell = nbformat.v4.new_code_cell("f()")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="a < b"),
        nbformat.v4.new_output("execute_result", data={"text/html": '<table class="dataframe">', "text/plain": "t"}),
        nbformat.v4.new_output("display_data", data={"image/png": "QUJD\n", "text/plain": "<Figure>"}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell])
    assert hooks.with_outputs(notebook).split("\n\n") == [
        "# Title",
        "```python\nf()\n```",
        "<pre>a &lt; b</pre>",
        "<table>",
        '<img alt="" src="data:image/png;base64,QUJD">',
    ]
