"""Several cells at once, in processes of this machine: joblib's, each by itself, so that one that dies is one cell."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.singleton import Singleton
from joblib.externals import loky

from bnrecal.commands.launchers.cells import Cell, Outcome, Runner, failed, run_cell
from bnrecal.errors import BnrecalError

_LOOK_AT_PARENT = 1.0  # seconds
_PATIENCE = 60.0  # seconds


def in_processes(n_jobs: int) -> Runner:
    """A `Runner` that keeps `n_jobs` cells going.

    A process runs one cell after the other. One that dies takes its own cell with it and is replaced. All end with
    this process, however that ends. Each gets an equal share of the processor's cores, unless OMP_NUM_THREADS says
    something else.

    Raises:
        BnrecalError: unless `n_jobs` is at least 1.
    """
    if n_jobs < 1:
        raise BnrecalError(f"hydra.launcher.n_jobs={n_jobs}: must be at least 1")

    def run(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        waiting = deque(cells)
        count = min(n_jobs, len(cells))
        places = [_Place(_share_of_cores(count)) for _ in range(count)]
        singletons = Singleton.get_state()
        busy: dict[Any, tuple[_Place, Cell]] = {}
        try:
            idle = list(places)
            while waiting or busy:
                while idle and waiting:
                    place, cell = idle.pop(), waiting.popleft()
                    busy[place.submit(cell, singletons)] = (place, cell)
                done, _ = loky.wait(busy, return_when=loky.FIRST_COMPLETED)
                for future in done:
                    place, cell = busy.pop(future)
                    idle.append(place)
                    yield cell, _outcome(place, future)
            for place in places:
                place.close(kill=False)
        finally:
            for place in places:
                place.close(kill=True)

    return run


@dataclass
class _Place:
    """One process, made when the first cell comes."""

    env: dict[str, str]
    executor: Any = field(default=None)

    def submit(self, cell: Cell, singletons: dict[Any, Any]) -> Any:
        if self.executor is None:
            self.executor = loky.ProcessPoolExecutor(
                max_workers=1, timeout=None, initializer=_prepare_process, initargs=(os.getpid(),), env=self.env
            )
        return self.executor.submit(run_cell, cell, singletons)

    def close(self, *, kill: bool) -> None:
        """End the process; one that does not end by itself within `_PATIENCE` has no more results to lose."""
        if self.executor is None:
            return
        closing = threading.Thread(target=self.executor.shutdown, kwargs={"wait": True}, daemon=True)
        if not kill:
            closing.start()
            closing.join(_PATIENCE)
        if kill or closing.is_alive():
            self.executor.shutdown(wait=True, kill_workers=True)
        self.executor = None


def _share_of_cores(processes: int) -> dict[str, str]:
    share = str(max(1, loky.cpu_count() // processes))
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}


def _outcome(place: _Place, future: Any) -> Outcome:
    error = future.exception()
    if error is None:
        outcome: Outcome = future.result()
        return outcome
    place.close(kill=True)
    if isinstance(error, loky.BrokenProcessPool):
        return Outcome(error="its process died: killed, or out of memory; the same command runs this cell again")
    return failed(error)


def _prepare_process(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_AT_PARENT)
    os._exit(1)
