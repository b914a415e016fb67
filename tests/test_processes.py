"""Jobs side by side: every one is reported, whatever becomes of its process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bnrecal.errors import BnrecalError
from bnrecal.processes import in_processes


def square_or_trouble(job: int | str) -> tuple[int, str | None]:
    if job == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "refuses":
        raise BnrecalError("refused")
    if isinstance(job, str):
        raise ZeroDivisionError(job)
    return job * job, os.environ.get("OMP_WAIT_POLICY")


def test_a_task_that_fails_or_whose_process_dies_is_reported_and_the_others_finish() -> None:
    jobs: list[int | str] = [1, "dies", 2, "refuses", "raises", 3]
    reported = dict(in_processes(square_or_trouble, jobs, 2))
    assert reported.keys() == set(jobs)
    assert [reported[job] for job in (1, 2, 3)] == [(1, "passive"), (4, "passive"), (9, "passive")]
    died, refused, raised = (reported[job] for job in ("dies", "refuses", "raises"))
    assert isinstance(died, BnrecalError)
    assert "its process died" in str(died)
    assert isinstance(refused, BnrecalError)
    assert str(refused) == "refused"
    assert isinstance(raised, ZeroDivisionError)


SLEEPERS = """
import os, sys, time
from pathlib import Path
from bnrecal.processes import in_processes

def sleep(folder):
    Path(folder, f"{os.getpid()}").touch()
    time.sleep(600)

if __name__ == "__main__":
    list(in_processes(sleep, [sys.argv[1]] * 2, 2))
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_processes_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    script, pids = tmp_path / "sleepers.py", tmp_path / "pids"
    script.write_text(SLEEPERS)
    pids.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(pids)]) as parent:
        try:
            _wait(lambda: len(list(pids.iterdir())) == 2)
        finally:
            parent.kill()
    started = [int(path.name) for path in pids.iterdir()]
    _wait(lambda: not any(map(_alive, started)))


def _wait(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
