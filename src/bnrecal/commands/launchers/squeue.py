"""What Slurm says of a user's jobs, without accounting: by `squeue`, which every cluster has.

submitit asks `sacct`, which answers nothing where accounting is off, and then waits for a cancelled job for ever.
"""

import getpass
import subprocess
from dataclasses import dataclass

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

_TIMEOUT = 60  # seconds for one answer


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
        """Whether it waits for what will not come."""
        return self.state == "PENDING" and self.reason.replace("_", " ") in {r.replace("_", " ") for r in NEVER_STARTS}


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
    """What `squeue --format=%i|%T|%r` printed."""
    rows = (line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
    return {job: JobState(state, reason) for job, state, reason in rows}
