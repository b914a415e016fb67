"""One job of a table or figure that fails, in whatever way, is reported, and the others are measured."""

import os
import signal

import pytest
from helpers.small import config

from bnrecal.commands.parallel import local
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


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "available_memory", lambda: 1000 * local.TASK_BYTES)


@pytest.mark.usefixtures("plenty")
def test_small_networks_run_side_by_side_and_others_alone() -> None:
    assert side_by_side(config("device=cpu"), None, 100) == cores()
    assert side_by_side(config("device=cpu"), None, 1) == 1
    assert side_by_side(config("device=cpu"), 3, 100) == 3
    assert side_by_side(config("device=cpu", "gpus=2"), None, 100) == 1
    assert side_by_side(config("data=imagenet", "data.root=/x"), None, 100) == 1


@pytest.mark.usefixtures("plenty")
def test_nothing_is_said_where_memory_has_room(caplog: pytest.LogCaptureFixture) -> None:
    assert side_by_side(config("device=cpu"), 8, 100) == 8
    assert caplog.text == ""


@pytest.mark.parametrize(("tasks", "expected"), [(0.3, 1), (1.0, 1), (2.9, 2), (3.0, 3), (4.0, 4), (50.0, 4)])
def test_no_more_run_than_memory_has_room_for(
    tasks: float, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 4)
    monkeypatch.setattr(local, "available_memory", lambda: int(tasks * local.TASK_BYTES))
    assert side_by_side(config("device=cpu"), None, 100) == expected
    assert ("each may take 1.5 GB" in caplog.text) == (expected < 4)
    caplog.clear()
    assert side_by_side(config("device=cpu"), 8, 100) == 8  # who asks for eight gets eight
    assert ("8 at a time where the memory has room for" in caplog.text) == (tasks < 8)


def test_memory_that_nobody_knows_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 4)
    monkeypatch.setattr(local, "available_memory", lambda: None)
    assert side_by_side(config("device=cpu"), None, 100) == 4
