"""Each cell a job of a Slurm cluster: submitted by submitit, watched through `squeue`, given up when it is lost.

submitit asks `sacct`, which answers nothing where accounting is off, and then waits for a cancelled job for ever.
`squeue` is on every cluster.
"""

import getpass
import logging
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any

import submitit
from hydra.core.singleton import Singleton

from bnrecal.commands.parallel.sweep import Cell, Outcome, Runner, run_cell
from bnrecal.errors import BnrecalError, one_line

LOOK = 2.0  # seconds between looks for results
ASK = 10.0  # seconds between questions to Slurm
GRACE = 30.0  # seconds that a result may take to show up on a shared folder after its job ended
SILENCE = 600.0  # seconds without an answer from Slurm after which it is given up
_TIMEOUT = 60  # seconds for one answer of a program of Slurm

ALIVE = {
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
}
"""States from which a job may still end well (`man squeue`, job state codes)."""

NEVER_STARTS = (
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "JobHeldAdmin",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "launch failed requeued held",
)
"""Reasons of a pending job that time alone does not mend (`man squeue`, job reason codes)."""

_SHARED = {
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
}
"""Parameters of submitit for any cluster; it wants the others as `slurm_...`."""

log = logging.getLogger("bnrecal")


@dataclass(frozen=True)
class JobState:
    """A line of squeue: the state, and why a pending job waits or what ended another."""

    state: str
    reason: str

    @property
    def over(self) -> bool:
        return self.state not in ALIVE

    @property
    def stuck(self) -> bool:
        """True for a pending job that time alone does not start."""
        return self.state == "PENDING" and self.reason.replace("_", " ") in {r.replace("_", " ") for r in NEVER_STARTS}


@dataclass
class _Waiting:
    """A submitted cell.

    Attributes:
        over_since: when Slurm first said that the job had ended, on the monotonic clock.
        ended: how, for the message.
    """

    cell: Cell
    job: Any
    over_since: float | None = None
    ended: str = ""


def on_slurm(settings: dict[str, Any]) -> Runner:
    """Make a `Runner` that submits all cells as one job array and waits for them.

    Args:
        settings: of `hydra.launcher`, as hydra-submitit-launcher defines them.
    """

    def run(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        try:
            jobs = _submit(cells, settings)
        except (BnrecalError, RuntimeError, OSError) as error:  # submitit's own errors are RuntimeErrors
            refused = Outcome(error=f"not submitted: {one_line(error)}")
            yield from ((cell, refused) for cell in cells)
            return
        main_id = jobs[0].job_id.split("_")[0]
        log.info("submitted as Slurm job %s; logs in %s", main_id, jobs[0].paths.folder.parent)
        try:
            yield from _wait([_Waiting(cell, job) for cell, job in zip(cells, jobs, strict=True)])
        except KeyboardInterrupt:
            sys.stderr.write(
                f"bnrecal: the jobs run on; the same command takes up their results; end them with: scancel {main_id}\n"
            )
            raise

    return run


def _submit(cells: Sequence[Cell], settings: dict[str, Any]) -> list[Any]:
    if shutil.which("srun") is None:
        raise BnrecalError("this machine has no Slurm: srun is not on PATH")
    own = {key: value for key, value in settings.items() if key not in ("submitit_folder", "max_num_timeout")}
    try:
        executor = submitit.AutoExecutor(
            settings["submitit_folder"], cluster="slurm", slurm_max_num_timeout=settings["max_num_timeout"]
        )
        executor.update_parameters(**{key if key in _SHARED else f"slurm_{key}": value for key, value in own.items()})
    except (TypeError, ValueError, NameError) as error:
        raise BnrecalError(f"hydra.launcher: {error}") from error
    singletons = [Singleton.get_state()] * len(cells)
    with redirect_stderr(StringIO()):  # submitit prints what sbatch says, and raises it too
        jobs: list[Any] = executor.map_array(run_cell, cells, singletons)
    for cell, job in zip(cells, jobs, strict=True):
        _name(job.job_id, cell.name)
    return jobs


def _name(job_id: str, name: str) -> None:
    """Let squeue say which cell an array's job runs; nothing depends on it."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["scontrol", "update", f"JobId={job_id}", f"JobName={name}"]
        subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT)


def _wait(waiting: list[_Waiting]) -> Iterator[tuple[Cell, Outcome]]:
    asked = float("-inf")
    answered = time.monotonic()
    reported = ""
    while waiting:
        now = time.monotonic()
        if now - asked >= ASK:
            asked = now
            states = job_states()
            if states is not None:
                answered = time.monotonic()
                reported = _note_states(waiting, states, reported)
        silent = time.monotonic() - answered >= SILENCE
        left = []
        for one in waiting:
            outcome = _outcome(one, silent)
            if outcome is None:
                left.append(one)
            else:
                yield one.cell, outcome
        waiting = left
        if waiting:
            time.sleep(LOOK)


def _note_states(waiting: Sequence[_Waiting], states: dict[str, JobState], reported: str) -> str:
    """Mark the jobs that ended; say what the others do, if that is news. Returns what was said."""
    counts: dict[str, int] = {}
    for one in waiting:
        state = states.get(one.job.job_id, JobState("UNKNOWN", "Slurm knows it no longer"))
        # a cancelled job keeps the reason that it waited for
        why = "" if state.reason in ("None", "") or state.state == "CANCELLED" else f" ({state.reason})"
        if state.stuck:
            one.ended = f"cannot start: {state.reason}"
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(["scancel", one.job.job_id], capture_output=True, check=True, timeout=_TIMEOUT)
        elif state.over:
            one.ended = f"ended without a result: {state.state}{why}"
        if (state.stuck or state.over) and one.over_since is None:
            one.over_since = time.monotonic() - (GRACE if state.stuck else 0)
        text = f"{state.state.lower()}{why if state.state == 'PENDING' else ''}"
        counts[text] = counts.get(text, 0) + 1
    news = ", ".join(f"{count} {text}" for text, count in sorted(counts.items()))
    if news != reported:
        log.info("jobs: %s", news)
    return news


def _outcome(one: _Waiting, silent: bool) -> Outcome | None:
    """The outcome of a job, None as long as a result may still come."""
    with suppress(OSError):  # makes a network file system look again
        folder = one.job.paths.folder
        folder.chmod(folder.stat().st_mode)
    lost = one.over_since is not None and time.monotonic() - one.over_since >= GRACE
    if one.job.paths.result_pickle.exists():
        outcome = _read(one.job.paths.result_pickle)
        if outcome is not None or not lost:
            return outcome
    where = f"Slurm job {one.job.job_id}"
    if lost:
        return Outcome(error=f"{where} {one.ended}{_last_words(one.job.paths.stderr)}")
    if silent:
        return Outcome(error=f"{where}: Slurm has not answered for {SILENCE / 60:.0f} minutes; the job may still run")
    return None


def _read(path: Any) -> Outcome | None:
    try:
        kind, value = pickle.loads(path.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError):
        return None  # not whole yet
    if kind == "success" and isinstance(value, Outcome):
        return value
    lines = [line.strip() for line in str(value).splitlines() if line.strip()]
    return Outcome(error=lines[-1] if lines else "the job failed", details=str(value))


def _last_words(path: Any) -> str:
    """The last line of a job's log, and where the log is."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f"; {path}{f' ends with: {lines[-1]}' if lines else ''}"


def job_states() -> dict[str, JobState] | None:
    """State by job id (`12`, or `12_3` in an array) of this user's jobs; None if Slurm does not answer.

    Slurm forgets a job some minutes after its end.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_states(done.stdout)


def parse_states(text: str) -> dict[str, JobState]:
    """Read what `squeue --format=%i|%T|%r` printed: the state by job id."""
    rows = (line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
    return {job: JobState(state, reason) for job, state, reason in rows}
