"""Every Python and shell example of the READMEs, CONTRIBUTING and docs/ runs, as the page has it.

A page's examples run in order, in one empty folder. In the page, HTML comments before a block say what it needs:
`<!-- needs: ... -->` something that is not here, so that its commands are only composed and its Python only compiled;
`<!-- file: NAME -->` that the block is the content of a file.
"""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers.fork_server import FORKS, SOCKET, server
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[1]
HELPERS = Path(__file__).parent / "helpers"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "src").rglob("README.md"))
NOTEBOOK = ROOT / "docs" / "quickstart.md"  # runs as one, in test_quickstart.py
COMMENT = re.compile(r"<!-- (needs|file): (.+?) -->\n\s*\Z")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(\$ |bnrecal |python |make |pip |\.venv/|srun |sbatch )", re.MULTILINE)


def said_before(example: Example) -> tuple[str, str]:
    """The comment right above a block: "needs" or "file", and its text; empty without one."""
    found = COMMENT.search(example.document.text[: example.start])
    return (found[1], found[2]) if found else ("", "")


def run_python(example: Example) -> None:
    what, text = said_before(example)
    if what == "file":
        Path(text).write_text(example.parsed)
    elif what == "needs":
        compile(example.parsed, example.path, "exec")
    else:
        with warnings.catch_warnings():
            PythonEvaluator()(example)


def run_shell(example: Example) -> None:
    what, _ = said_before(example)
    failures = Path("failures.txt").absolute()
    environment = {
        "PYTHON": sys.executable,
        "HELPERS": str(HELPERS),
        "REPOSITORY": str(ROOT),
        "BNRECAL_EXAMPLE": "compose" if what == "needs" else "run",
        "BNRECAL_FAILURES": str(failures),
        SOCKET: server() if FORKS else "",
    }
    script = f". '{HELPERS}/example_shell.sh'\n{example.parsed}"
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=1800
    )
    failed = failures.read_text() if failures.exists() else ""
    reported = f"{example.path}:{example.line}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    assert (done.returncode, failed) == (0, ""), reported


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != NOTEBOOK], ids=lambda page: page.name)
def test_every_example_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parsers = [CodeBlockParser("python", run_python), CodeBlockParser("sh", run_shell)]
    for example in Document.parse(str(page), *parsers).examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_example_hides_in_an_untagged_block(page: Path) -> None:
    """A block that looks like commands says `sh`, or it would not be run."""
    for language, content in FENCE.findall(page.read_text()):
        assert language or not COMMAND.search(content), content
