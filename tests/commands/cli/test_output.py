"""Readers that stop reading, and disks without room, end a command in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import CUSTOM


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = " ".join(f"'{word}'" for word in CUSTOM)
    line = command.format(bnrecal=f"{sys.executable} -m bnrecal", custom=words)
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("command", ["{bnrecal} {custom}", "{bnrecal} -m {custom} smt.threads=2,4", "{bnrecal} --help"])
def test_a_reader_that_left_is_reported_in_one_line(command: str, tmp_path: Path) -> None:
    done = shell(f"set -o pipefail; {command} | true", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "bnrecal: nobody reads the output any more; what was finished is kept\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_to_a_full_disk_is_reported_in_one_line(tmp_path: Path) -> None:
    done = shell("{bnrecal} {custom} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "bnrecal: No space left on device\n"
    assert list(tmp_path.rglob("result.json"))
