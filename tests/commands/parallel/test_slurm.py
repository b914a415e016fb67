"""The Slurm launcher against programs that answer as Slurm's do; scripts/try_slurm.sh runs it on a real one."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bnrecal.commands.parallel import slurm
from bnrecal.commands.parallel.slurm import JobState
from bnrecal.commands.parallel.sweep import Cell, Outcome

PENDING = JobState("PENDING", "Resources")
RUNNING = JobState("RUNNING", "None")
Answers = Callable[[int], dict[str, JobState] | None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs: sbatch always says job 7, every other one notes its arguments in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol", "scancel"):
        _program(folder / name, f'echo {name} "$@" >> {folder}/calls')
    _program(folder / "sbatch", "echo Submitted batch job 7")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "ASK", "GRACE"):
        monkeypatch.setattr(slurm, name, 0.01)


def _program(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def cells(tmp_path: Path, count: int) -> list[Cell]:
    context: Any = None  # for Hydra's run_job; nothing here runs a job
    return [Cell(n, (f"seed={n}",), OmegaConf.create({}), context, tmp_path / f"cell-{n}") for n in range(count)]


def outcomes(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch, answers: Answers) -> dict[int, Outcome]:
    """Outcomes of `count` cells if Slurm's n-th answer is `answers(n)`."""
    asked = iter(range(10_000))
    monkeypatch.setattr(slurm, "job_states", lambda: answers(next(asked)))
    settings = {"submitit_folder": f"{tmp_path}/slurm/%j", "max_num_timeout": 0, "name": "bnrecal", "timeout_min": 5}
    run = slurm.on_slurm({**settings, "array_parallelism": 4, "partition": None})
    return {cell.number: outcome for cell, outcome in run(cells(tmp_path, count))}


def finish(tmp_path: Path, job: str, kind: str = "success", value: object = Outcome(70.0, "fine")) -> None:
    path = tmp_path / "slurm" / job / f"{job}_0_result.pkl"
    path.write_bytes(pickle.dumps((kind, value)))


def test_a_cancelled_job_is_one_failed_cell(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(n: int) -> dict[str, JobState]:
        if n == 0:
            return {"7_0": RUNNING, "7_1": PENDING, "7_2": PENDING}
        finish(tmp_path, "7_0")
        finish(tmp_path, "7_2")
        return {"7_0": JobState("COMPLETED", "None"), "7_1": JobState("CANCELLED", "Resources"), "7_2": RUNNING}

    found = outcomes(tmp_path, 3, monkeypatch, answers)
    assert found[0] == found[2] == Outcome(70.0, "fine")
    assert found[1].top1 is None
    assert found[1].error == "Slurm job 7_1 ended without a result: CANCELLED"
    assert "JobName=cell-1" in (programs / "calls").read_text()


def test_a_job_that_slurm_has_forgotten_is_lost(
    programs: Path,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(n: int) -> dict[str, JobState]:
        if n == 1:
            log = tmp_path / "slurm" / "7_1" / "7_1_0_log.err"
            log.write_text("loading\nslurmstepd: error: Detected 1 oom-kill event\n\n")
            finish(tmp_path, "7_0")
        return {"7_0": RUNNING, "7_1": RUNNING} if n == 0 else {}

    found = outcomes(tmp_path, 2, monkeypatch, answers)
    assert found[0].top1 == 70.0
    assert "7_1 ended without a result: UNKNOWN (Slurm knows it no longer)" in found[1].error
    assert found[1].error.endswith("7_1_0_log.err ends with: slurmstepd: error: Detected 1 oom-kill event")


def test_a_result_that_the_file_system_shows_late_still_counts(
    programs: Path,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "GRACE", 60.0)

    def answers(n: int) -> dict[str, JobState]:
        if n == 3:
            finish(tmp_path, "7")
        return {"7": RUNNING} if n == 0 else {}

    assert outcomes(tmp_path, 1, monkeypatch, answers) == {0: Outcome(70.0, "fine")}


def test_a_job_that_can_never_start_is_given_up_and_cancelled(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes(tmp_path, 1, monkeypatch, lambda _: {"7": JobState("PENDING", "PartitionTimeLimit")})
    assert found[0].error.startswith("Slurm job 7 cannot start: PartitionTimeLimit")
    assert "scancel 7\n" in (programs / "calls").read_text()


def test_silence_of_slurm_ends_the_waiting(
    programs: Path,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "SILENCE", 0.05)
    found = outcomes(tmp_path, 2, monkeypatch, lambda _: None)
    assert all("Slurm has not answered" in outcome.error for outcome in found.values())


def test_a_refused_sbatch_is_reported_once_a_cell(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _program(programs / "sbatch", "echo sbatch: error: invalid partition specified: nowhere >&2; exit 1")
    found = outcomes(tmp_path, 2, monkeypatch, lambda _: {})
    assert {o.error for o in found.values()} == {"not submitted: sbatch: error: invalid partition specified: nowhere"}
    assert capfd.readouterr().err == ""


def test_a_machine_without_slurm_says_so(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "srun").unlink()
    monkeypatch.setenv("PATH", str(programs))
    found = outcomes(tmp_path, 1, monkeypatch, lambda _: {})
    assert found[0].error == "not submitted: this machine has no Slurm: srun is not on PATH"


def test_what_a_job_raised_outside_its_cell_is_one_line(
    programs: Path,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(_: int) -> dict[str, JobState]:
        finish(tmp_path, "7", "error", "Traceback (most recent call last):\n  File x\nImportError: no module here\n")
        return {"7": JobState("FAILED", "NonZeroExitCode")}

    found = outcomes(tmp_path, 1, monkeypatch, answers)
    assert found[0].error == "ImportError: no module here"
    assert found[0].details.startswith("Traceback")


def test_ctrl_c_says_how_to_end_the_jobs(
    programs: Path,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answers(_: int) -> dict[str, JobState]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcomes(tmp_path, 2, monkeypatch, answers)
    assert "end them with: scancel 7\n" in capsys.readouterr().err


def test_squeue_is_read_as_it_prints() -> None:
    states = slurm.parse_states("12_0|RUNNING|None\n12_3|PENDING|launch failed requeued held\n13|TIMEOUT|TimeLimit\n\n")
    assert states["12_0"] == RUNNING
    assert states["12_3"].stuck
    assert not states["12_3"].over
    assert states["13"].over
    assert not JobState("PENDING", "Priority").stuck


def test_an_squeue_that_fails_is_no_answer(programs: Path) -> None:
    _program(programs / "squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    assert slurm.job_states() is None
    _program(programs / "squeue", 'echo "7_1|RUNNING|None"')
    assert slurm.job_states() == {"7_1": RUNNING}
    (programs / "squeue").unlink()
    assert slurm.job_states() is None
