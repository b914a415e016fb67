"""Commands run as a user runs them: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

SMALL = [
    "device=cpu",
    "data.val_images=60",
    "data.allow_chance=true",  # untrained networks run too
    "calibration.images=40",
    "recalibration.images=32",
    "recalibration.batch_size=16",
]
CUSTOM = ["model=custom", "model.factory=helpers.nets:glyph_net", *SMALL]


def bnrecal(*arguments: str, folder: Path, env: dict[str, str] | None = None) -> str:
    """Run a command in `folder`; its stdout. Fails the test if it fails."""
    done = run(*arguments, folder=folder, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(*arguments: str, folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bnrecal", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**env or {}), capture_output=True, text=True, check=False, timeout=300
    )


def environment(**changes: str) -> dict[str, str]:
    """This process's environment variables with changes."""
    return {**os.environ, **changes}
