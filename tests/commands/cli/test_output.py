"""Readers that stop reading, and disks without room, end a command in one line."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import CUSTOM, environment
from helpers.fork_server import FORKS, SOCKET, as_fork, server


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, where {bnrecal} is the command as a process of its own and {fork} a fork."""
    words = " ".join(f"'{word}'" for word in CUSTOM)
    own = shlex.join([sys.executable, "-m", "bnrecal"])
    fork = shlex.join([sys.executable, *as_fork("bnrecal")]) if FORKS else own
    return subprocess.run(
        ["bash", "-c", command.format(bnrecal=own, fork=fork, custom=words)],
        cwd=folder,
        env=environment(**{SOCKET: server() if FORKS else ""}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("command", ["{bnrecal} {custom}", "{fork} -m {custom} smt.threads=2,4", "{bnrecal} --help"])
def test_a_reader_that_left_is_reported_in_one_line(command: str, tmp_path: Path) -> None:
    done = shell(f"set -o pipefail; {command} | true", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "bnrecal: nobody reads the output any more; what was finished is kept\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_to_a_full_disk_is_reported_in_one_line(tmp_path: Path) -> None:
    done = shell("{fork} {custom} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "bnrecal: No space left on device\n"
    assert list(tmp_path.rglob("result.json"))
