"""Results in order, failures reported, and no process left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnrecal.errors import BnrecalError
from bnrecal.evaluation.ranks import run_on_ranks


def _double(rank: int, world: int, numbers: list[int]) -> list[int]:
    return [2 * number for number in numbers[rank::world]]


def _fail_on_one(rank: int, _world: int, error: Exception) -> int:
    if rank == 1:
        raise error
    time.sleep(60)
    return rank


def _die(rank: int, _world: int) -> int:
    if rank == 0:
        os._exit(3)
    time.sleep(60)
    return rank


def test_results_come_in_the_order_of_ranks() -> None:
    assert run_on_ranks(_double, 2, [1, 2, 3]) == [[2, 6], [4]]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BnrecalError("bad.JPEG cannot be read"), "^bad.JPEG cannot be read$"),
        (ZeroDivisionError("oh"), "rank 1: Z.*oh"),
    ],
)
def test_the_first_failure_is_raised_and_ends_the_others(error: Exception, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        run_on_ranks(_fail_on_one, 2, error)
    assert not multiprocessing.active_children()


def test_what_cannot_be_pickled_is_reported() -> None:
    with pytest.raises(BnrecalError, match="gpus=1"):
        run_on_ranks(_double, 2, lambda: 0)


def test_a_process_that_dies_is_reported() -> None:
    with pytest.raises(BnrecalError, match="rank 0 died"):
        run_on_ranks(_die, 2)


_PARENT = """
import os, signal, sys, time
from pathlib import Path
from bnrecal.evaluation.ranks import run_on_ranks

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background starts us without it

def note(rank, world, folder):
    Path(folder, str(rank)).write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    run_on_ranks(note, 2, sys.argv[1])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_parent(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    notes = tmp_path / "notes"
    notes.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(notes)], stderr=subprocess.DEVNULL)
    _until(lambda: len([note for note in notes.iterdir() if note.read_text()]) == 2)
    children = [int(note.read_text()) for note in notes.iterdir()]
    parent.send_signal(how)
    parent.wait(20)
    _until(lambda: not any(_runs(child) for child in children))


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _until(condition, seconds: float = 30) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
