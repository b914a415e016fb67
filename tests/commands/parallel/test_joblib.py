"""`+launch=joblib` as documented, and with processes that die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command_line import CUSTOM, SMALL, bnrecal, run

from bnrecal.commands.parallel.sweep import on_this_machine
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.errors import BnrecalError

pytestmark = pytest.mark.usefixtures("several_processes")
JOBLIB = ["-m", "+launch=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture(scope="module", autouse=True)
def _drawn() -> None:
    """Draw the images once: two processes that begin together would each draw them."""
    source = GlyphSource()
    source.images("train")
    source.images("val")


def results(folder: Path) -> set[Path]:
    return set(folder.rglob("result.json"))


def test_all_cells_of_a_sweep_and_none_a_second_time(tmp_path: Path) -> None:
    sweep = [*JOBLIB, *CUSTOM, "recal=true,false", "workers=1"]  # loading processes in its processes
    done = run(*sweep, folder=tmp_path, fork=False)
    assert (done.returncode, done.stderr) == (0, "")  # no warning of semaphores that a killed process left behind
    stamps = {path: path.stat().st_mtime_ns for path in results(tmp_path)}
    assert len(stamps) == 2
    assert bnrecal(*sweep, folder=tmp_path).count("(finished earlier)") == 2
    assert {path: path.stat().st_mtime_ns for path in results(tmp_path)} == stamps


def test_a_process_that_is_killed_is_one_failed_cell_and_the_same_command_completes_it(tmp_path: Path) -> None:
    sweep = [*JOBLIB, *SMALL, "model=custom", "model.factory=helpers.troubles:deadly", "smt.threads=1,2,4"]
    sweep += [f"model.kwargs={{fuse: {tmp_path / 'fuse'}}}"]
    done = run(*sweep, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("failed: its process died") == 1
    assert "Traceback" not in done.stderr
    assert len(results(tmp_path)) == 2
    assert bnrecal(*sweep, folder=tmp_path).count("(finished earlier)") == 2
    assert len(results(tmp_path)) == 3


def test_processes_end_when_the_command_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    note.mkdir()
    sweep = [*JOBLIB, *SMALL, "model=custom", "model.factory=helpers.troubles:waits", "smt.threads=1,2"]
    command = [sys.executable, "-m", "bnrecal", *sweep, f"model.kwargs={{note: {note}}}"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(note.iterdir())) == 2)
        process.send_signal(signal.SIGKILL)
    pids = [int(path.name) for path in note.iterdir()]
    wait_for(lambda: not any(running(pid) for pid in pids), 40)  # they would take a minute each


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for(condition: object, seconds: float = 240) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_processes_are_no_launcher() -> None:
    with pytest.raises(BnrecalError, match=r"hydra\.launcher\.n_jobs=0: must be at least 1"):
        on_this_machine(0)
