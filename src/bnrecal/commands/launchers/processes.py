"""Several cells at once, in processes of this machine: each by itself, so that one that dies is one cell."""

from collections.abc import Iterator, Sequence
from functools import partial

from hydra.core.singleton import Singleton

from bnrecal.commands import pool
from bnrecal.commands.launchers.cells import Cell, Outcome, Runner, failed, run_cell
from bnrecal.errors import BnrecalError


def in_processes(n_jobs: int) -> Runner:
    """A `Runner` that keeps `n_jobs` cells going, as `pool.in_processes` does.

    Raises:
        BnrecalError: unless `n_jobs` is at least 1.
    """
    if n_jobs < 1:
        raise BnrecalError(f"hydra.launcher.n_jobs={n_jobs}: must be at least 1")

    def run(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        work = partial(run_cell, singletons=Singleton.get_state())
        for cell, outcome in pool.in_processes(work, cells, n_jobs):
            yield cell, failed(outcome) if isinstance(outcome, Exception) else outcome

    return run
