"""Two processes as torchrun starts them: the same outcomes as one, and no one left waiting for the dead."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.command_line import CUSTOM, bnrecal, fresh_cache
from helpers.fork_server import FORKS, SOCKET, as_fork, server

from bnrecal.errors import BnrecalError
from bnrecal.evaluation import process_group
from bnrecal.evaluation.process_group import Place, find_place

_EVALUATES = """
import sys
from pathlib import Path
import numpy as np
import torch
from helpers.nets import tiny
from evaluation.test_multi_gpu import _loading, _network
from bnrecal.evaluation.accuracy import evaluate
from bnrecal.evaluation.multi_gpu import evaluate_on_ranks
from bnrecal.evaluation.process_group import share

def lead():
    loader, selection = _loading(Path(sys.argv[1]) / "data")
    networks = {"a": _network(0), "b": _network(1)}
    together = evaluate(networks, loader.batches(selection, 3))
    for _ in range(2):
        apart = evaluate_on_ranks(networks, loader, selection, 3, 1)
        for name in networks:
            assert np.array_equal(apart[name].top1, together[name].top1)
            assert np.array_equal(apart[name].top5, together[name].top5)
            assert apart[name].skipped == together[name].skipped == 1
    print("equal", together["a"].images)

if __name__ == "__main__":
    share(1, lead)
"""

_FAILS = """
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.process_group import on_every_rank, share

def fail(rank, world):
    if rank == 1:
        raise BnrecalError("bad.JPEG cannot be read")
    return rank

def double(rank, world, number):
    return (rank + world) * number

def lead():
    try:
        on_every_rank(fail)
    except BnrecalError as error:
        print("reported:", error)
    print(on_every_rank(double, 10))

if __name__ == "__main__":
    share(1, lead)
"""

_WAITS = """
import os, sys, time
from pathlib import Path
from bnrecal.evaluation.process_group import on_every_rank, share

def wait(rank, world, folder):
    Path(folder, str(rank)).write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    share(1, lambda: on_every_rank(wait, sys.argv[1]))
"""


def _start(arguments: Sequence[str], folder: Path) -> list["subprocess.Popen[str]"]:
    """Start Python twice, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={
                **os.environ,
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
                SOCKET: server() if FORKS else "",
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def _outputs(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "script.py").write_text(text)
    return _finished("script", str(tmp_path), folder=tmp_path)


def _finished(module: str, *arguments: str, folder: Path) -> list[str]:
    """Run a module in two processes whose end is not what a test is about: forks, where they can be had."""
    processes = _start(as_fork(module, *arguments) if FORKS else ["-m", module, *arguments], folder)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return [out for out, _ in said]


@pytest.mark.usefixtures("several_processes")
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    first, second = _outputs(tmp_path, _EVALUATES)
    assert first.startswith("equal ")
    assert second == ""


@pytest.mark.usefixtures("several_processes")
def test_a_failure_of_any_rank_is_raised_on_rank_0_and_the_group_goes_on(tmp_path: Path) -> None:
    first, second = _outputs(tmp_path, _FAILS)
    assert first == "reported: bad.JPEG cannot be read\n[20, 30]\n"
    assert second == ""


@pytest.mark.usefixtures("several_processes")
def test_a_run_by_two_processes_is_the_run_by_one(tmp_path: Path) -> None:
    run = [*CUSTOM, "recal=true", "device=cpu", "workers=0"]
    together, apart = tmp_path / "together", tmp_path / "apart"
    first, second = _finished("bnrecal", *run, f"hydra.run.dir={together}", folder=tmp_path)
    assert str(together) in first
    assert second == ""
    bnrecal(*run, f"hydra.run.dir={apart}", folder=tmp_path, env=fresh_cache(tmp_path / "cache"))
    found = [json.loads((folder / "result.json").read_text()) for folder in (together, apart)]
    for key in ("images", "top1", "top5", "top1_wo_recal", "fp32_top1", "a8w8_top1", "control_gain"):
        assert found[0][key] == found[1][key], key


@pytest.mark.usefixtures("several_processes")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_dies_ends_the_others_with_one_line(killed: int, tmp_path: Path) -> None:
    script, notes = tmp_path / "script.py", tmp_path / "notes"
    script.write_text(_WAITS)
    notes.mkdir()
    processes = _start([str(script), str(notes)], tmp_path)
    deadline = time.monotonic() + 120
    while len([note for note in notes.iterdir() if note.read_text()]) < 2:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    processes[killed].send_signal(signal.SIGKILL)
    _, err = processes[1 - killed].communicate(timeout=10)
    processes[killed].communicate()
    assert processes[1 - killed].returncode == 1
    lines = [line for line in err.splitlines() if line.startswith("bnrecal: ")]
    assert lines == (["bnrecal: the process of rank 1 died; what was finished is kept"] if killed else [])
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("environment", "gpus", "place"),
    [
        ({}, 8, None),
        ({"WORLD_SIZE": "4", "RANK": "3"}, 1, Place(3, 4)),
        ({"WORLD_SIZE": "4", "RANK": "3"}, 4, Place(3, 4)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 1, None),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}, 8, Place(5, 8)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}, 1, None),  # separate runs
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, 8, None),  # a batch script, not a step
    ],
)
def test_the_place_is_what_torchrun_or_slurm_say(
    environment: dict[str, str], gpus: int, place: Place | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(environment))
    assert find_place(gpus) == place


def test_another_number_of_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "4", "RANK": "0"})
    with pytest.raises(BnrecalError, match="gpus=8, but torchrun started 4 processes: set gpus=4"):
        find_place(8)


def test_a_process_started_alone_just_works() -> None:
    assert process_group.share(1, process_group.world) == 1
