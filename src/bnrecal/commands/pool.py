"""Independent jobs side by side on the cores of this machine, each in a process by itself: loky's, from joblib."""

import io
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from joblib.externals import loky

from bnrecal.errors import BnrecalError

J = TypeVar("J")
R = TypeVar("R")
_LOOK_AT_PARENT = 1.0  # seconds
_PATIENCE = 60.0  # seconds


def cores() -> int:
    """Processor cores that this process may use."""
    return int(loky.cpu_count())


def in_processes(work: Callable[[J], R], jobs: Sequence[J], processes: int) -> Iterator[tuple[J, R | Exception]]:
    """`work` on every job, `processes` at a time; yields each job with its result, or what it raised, as they finish.

    A process runs one job after the other. One that dies takes its own job with it and is replaced. All end with this
    process, however that ends. Each gets an equal share of the cores, unless OMP_NUM_THREADS says something else.
    """
    waiting = deque(jobs)
    count = min(processes, len(jobs))
    places = [_Place(_environment(count)) for _ in range(count)]
    idle = list(places)
    busy: dict[Any, tuple[_Place, J]] = {}
    try:
        while waiting or busy:
            while idle and waiting:
                place, job = idle.pop(), waiting.popleft()
                busy[place.submit(work, job)] = (place, job)
            done, _ = loky.wait(busy, return_when=loky.FIRST_COMPLETED)
            for future in done:
                place, job = busy.pop(future)
                idle.append(place)
                error = place.error(future)
                yield job, future.result() if error is None else error
        for place in places:
            place.close(kill=False)
    finally:
        for place in places:
            place.close(kill=True)


@dataclass
class _Place:
    """One process, made when the first job comes."""

    env: dict[str, str]
    executor: Any = field(default=None)

    def submit(self, work: Callable[[J], R], job: J) -> Any:
        if self.executor is None:
            self.executor = loky.ProcessPoolExecutor(
                max_workers=1, timeout=None, initializer=_prepare_process, initargs=(os.getpid(),), env=self.env
            )
        return self.executor.submit(work, job)

    def error(self, future: Any) -> Exception | None:
        """What the job raised; a process that is not there any more is replaced."""
        error = future.exception()
        if error is None:
            return None
        self.close(kill=True)
        if isinstance(error, loky.BrokenProcessPool):
            return BnrecalError("its process died: killed, or out of memory; the same command does what is missing")
        return error if isinstance(error, Exception) else BnrecalError(repr(error))

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


def _environment(processes: int) -> dict[str, str]:
    # idle OpenMP workers that spin would take the cores from the other processes
    own = {"OMP_NUM_THREADS": str(max(1, cores() // processes)), "OMP_WAIT_POLICY": "passive"}
    return {name: os.environ.get(name, value) for name, value in own.items()}


class _NoTerminal(io.TextIOWrapper):
    """Standard error of a process whose progress bars nobody could tell from those of the others."""

    def isatty(self) -> bool:
        return False


def _prepare_process(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_AT_PARENT)
    os._exit(1)
