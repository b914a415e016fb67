"""Commands run as a user runs them: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

from helpers.fork_server import FORKS, READ_AT_IMPORT, SOCKET, run_in_fork, server

SMALL = [
    "device=cpu",
    "data.val_images=60",
    "data.allow_chance=true",  # untrained networks run too
    "calibration.images=40",
    "recalibration.images=32",
    "recalibration.batch_size=16",
]
CUSTOM = ["model=custom", "model.factory=helpers.nets:glyph_net", *SMALL]


def bnrecal(*arguments: str, folder: Path, env: dict[str, str] | None = None, fork: bool = True) -> str:
    """Run a command in `folder`; its stdout. Fails the test if it fails."""
    done = run(*arguments, folder=folder, env=env, fork=fork)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(
    *arguments: str, folder: Path, env: dict[str, str] | None = None, fork: bool = True, module: str = "bnrecal"
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`.

    Args:
        fork: spare its imports where that is possible; not where a test is about how a process ends.
        module: what is run in place of `bnrecal`.
    """
    changes = env or {}
    if not fork or not FORKS or set(changes) & set(READ_AT_IMPORT):
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment(**changes), capture_output=True, text=True, check=False, timeout=300
        )
    with TemporaryFile("w+") as out, TemporaryFile("w+") as errors, open(os.devnull) as nothing:
        files = (nothing.fileno(), out.fileno(), errors.fileno())
        everything = environment(**changes, **{SOCKET: server()})
        status = run_in_fork([module, *arguments], folder, everything, files, 300)
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(arguments, status, out.read(), errors.read())


def fresh_cache(folder: Path) -> dict[str, str]:
    """Make a cache that holds nothing but the drawn images; the variable that names it."""
    folder.mkdir()
    (folder / "glyphs").symlink_to(Path(os.environ["BNRECAL_CACHE"]) / "glyphs")
    return {"BNRECAL_CACHE": str(folder)}


def environment(**changes: str) -> dict[str, str]:
    """This process's environment variables with changes."""
    return {**os.environ, **changes}
