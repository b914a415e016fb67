"""One job of a table or figure that fails, in whatever way, is reported, and the others are measured."""

import os
import signal

import pytest
from helpers.small import config

from bnrecal.commands.parallel.local import attempt_all, side_by_side
from bnrecal.errors import BnrecalError
from bnrecal.processes import cores

JOBS: list[tuple[str, int | str]] = [
    ("one", 1),
    ("refused", "refused"),
    ("broken", "broken"),
    ("two", 2),
    ("untakeable", 3),
]


def work(job: int | str) -> int:
    if job == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "refused":
        raise BnrecalError("smt.threads=3: choose one of 1, 2, 4")
    if isinstance(job, str):
        raise ZeroDivisionError("by zero")
    return 10 * job


@pytest.mark.parametrize("processes", [1, 2])
def test_every_failure_is_reported_with_its_type_and_place(processes: int, capsys: pytest.CaptureFixture[str]) -> None:
    taken: dict[int | str, int] = {}

    def take(job: int | str, result: int) -> None:
        if job == 3:
            raise KeyError("no such column")
        taken[job] = result

    jobs = [*JOBS, ("dead", "dies")] if processes > 1 else JOBS
    failed = sorted(attempt_all(jobs, "test", "job", work, take, processes))
    assert taken == {1: 10, 2: 20}
    assert failed.pop(0).startswith(f"broken: ZeroDivisionError: by zero ({__file__}, line ")
    if processes > 1:
        assert failed.pop(0).startswith("dead: its process died")
    assert failed.pop(0) == "refused: smt.threads=3: choose one of 1, 2, 4"
    assert failed.pop(0).startswith(f"untakeable: KeyError: 'no such column' ({__file__}, line ")
    assert failed == []
    assert "bnrecal: refused: smt.threads=3" in capsys.readouterr().err


def test_small_networks_run_side_by_side_and_others_alone() -> None:
    assert side_by_side(config("device=cpu"), None, 100) == cores()
    assert side_by_side(config("device=cpu"), None, 1) == 1
    assert side_by_side(config("device=cpu"), 3, 100) == 3
    assert side_by_side(config("device=cpu", "gpus=2"), None, 100) == 1
    assert side_by_side(config("data=imagenet", "data.root=/x"), None, 100) == 1
