"""SIGKILL at random moments of a sweep and of table1, and the same command again until it ends.

    python scripts/kill_and_resume.py [--kills 20] [--seed 0]

Checked: the final CSV is that of an undisturbed run, no finished cell is measured again (its file stays the very same
file), and nothing that a killed run leaves behind is in the way of `bnrecal merge`.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

SMALL = ["data.val_images=200", "calibration.images=64", "recalibration.images=64", "recalibration.batch_size=32"]
ROWS = (
    "rows=[{source: MLPerf, label: MobileNet-v1, model: mobilenet_v1},"
    " {source: PyTorch, label: ResNet-18, model: resnet18}]"
)
VOLATILE = ["seconds"]  # of the columns: what is measured with a clock

Stamps = dict[Path, tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """A command to be killed.

    Attributes:
        cells: glob, below the folder, of the files that must not be made twice.
        table: the CSV to compare; made by `bnrecal merge` where there is none.
    """

    name: str
    arguments: Sequence[str]
    cells: str
    table: str | None = None

    def command(self, folder: Path) -> list[str]:
        where = "out" if self.table else "hydra.sweep.dir"
        return [sys.executable, "-m", "bnrecal", *self.arguments, *SMALL, f"{where}={folder}"]

    def finished(self, folder: Path) -> Stamps:
        """Finished cells, with inode and time: another file under the same name differs in one of them."""
        return {path: ((found := path.stat()).st_ino, found.st_mtime_ns) for path in folder.glob(self.cells)}

    def csv(self, folder: Path) -> pd.DataFrame:
        merged = folder.with_suffix(".csv")
        run([sys.executable, "-m", "bnrecal", "merge", str(folder), "--out", str(merged)])
        table = pd.read_csv(folder / self.table if self.table else merged)
        return table.drop(columns=[column for column in VOLATILE if column in table])


CASES = (
    Case("sweep", ["-m", "model=mobilenet_v1,resnet18", "smt.threads=2,4", "recal=true"], "*/result.json"),
    Case("table1", ["table1", ROWS], "cells/*.json", "table1_long.csv"),
)


def run(command: Sequence[str]) -> float:
    """Seconds that a command took; it must succeed."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{done.stderr}")
    return time.monotonic() - started


def killed(command: Sequence[str], seconds: float) -> bool:
    """Return whether the command still ran after `seconds` and was killed, with everything it had started."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    if status:
        sys.exit(f"failed after a kill: {' '.join(command)}")
    return False


def check(case: Case, kills: int, work: Path, rng: random.Random) -> None:
    """Kill, start again, compare; exits with a message at the first difference."""
    whole = work / f"{case.name}-whole"
    seconds = run(case.command(whole))
    expected = case.csv(whole)
    count = 0
    rounds = 0
    kept = 0
    while count < kills:
        rounds += 1
        folder = work / f"{case.name}-{rounds}"
        os.environ["BNRECAL_CACHE"] = str(work / f"cache-{case.name}-{rounds}")  # what it keeps is killed half-way too
        seen: Stamps = {}
        while True:
            # the last time is left alone, so that every round ends
            moment = rng.uniform(0, seconds) if count < kills else 10 * seconds + 600
            started = time.monotonic()
            ended = not killed(case.command(folder), moment)
            now = case.finished(folder)
            for path, stamp in seen.items():
                if now.get(path) != stamp:
                    sys.exit(f"{case.name}: {path} was finished, and was made again or lost")
            if ended and not seen:  # undisturbed, and faster than was thought: on a machine that others use as well
                seconds = min(seconds, time.monotonic() - started)
            kept = max(kept, len(seen))
            seen = now
            if ended:
                break
            count += 1
            print(f"{case.name}: killed after {moment:5.1f} s, {len(now)} cells finished", flush=True)
        pd.testing.assert_frame_equal(case.csv(folder), expected)
        strays = [path for path in folder.rglob(".*") if path.is_file()]
        print(f"{case.name}: round {rounds} ended with the same table; {len(strays)} half-written files lie about")
    print(f"{case.name}: {count} kills in {rounds} rounds, up to {kept} finished cells kept, none made twice")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each command (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            check(case, arguments.kills, Path(folder), random.Random(arguments.seed))


if __name__ == "__main__":
    main()
