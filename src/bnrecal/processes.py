"""Independent tasks side by side on the cores of this machine, each in a process by itself: loky's, from joblib."""

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
from bnrecal.memory import keep_freed_memory

T = TypeVar("T")
R = TypeVar("R")
_LOOK_AT_PARENT = 1.0  # seconds
_PATIENCE = 60.0  # seconds


class ProcessDied(BnrecalError):
    """A process that ended in the middle of its task."""


def cores() -> int:
    """Processor cores that this process may use."""
    return int(loky.cpu_count())


def in_processes(work: Callable[[T], R], tasks: Sequence[T], processes: int) -> Iterator[tuple[T, R | Exception]]:
    """`work` on every task, `processes` at a time; yields each task with its result or its exception, as they finish.

    A process does one task after the other. One that dies takes its own task with it and is replaced. All end with this
    process, however that ends. Each gets an equal share of the cores, unless OMP_NUM_THREADS says something else.

    Args:
        work: any function, closures included; it, the tasks and the results are pickled.
    """
    waiting = deque(tasks)
    count = min(processes, len(tasks))
    workers = [_Worker(_environment(count)) for _ in range(count)]
    idle = list(workers)
    busy: dict[Any, tuple[_Worker, T]] = {}
    try:
        while waiting or busy:
            while idle and waiting:
                worker = idle.pop()
                task = waiting.popleft()
                busy[worker.submit(work, task)] = (worker, task)
            done, _ = loky.wait(busy, return_when=loky.FIRST_COMPLETED)
            for future in done:
                worker, task = busy.pop(future)
                idle.append(worker)
                error = worker.error(future)
                yield task, future.result() if error is None else error
        for worker in workers:
            worker.end(kill=False)
    finally:
        for worker in workers:
            worker.end(kill=True)


@dataclass
class _Worker:
    """One process, made when its first task comes."""

    env: dict[str, str]
    executor: Any = field(default=None)

    def submit(self, work: Callable[[T], R], task: T) -> Any:
        if self.executor is None:
            self.executor = loky.ProcessPoolExecutor(
                max_workers=1, timeout=None, initializer=_prepare_process, initargs=(os.getpid(),), env=self.env
            )
        return self.executor.submit(work, task)

    def error(self, future: Any) -> Exception | None:
        """The exception of a task, None if it has a result. A process that is not there any more is replaced."""
        error = future.exception()
        if error is None:
            return None
        self.end(kill=True)
        if isinstance(error, loky.BrokenProcessPool):
            return ProcessDied("its process died: killed, or out of memory; the same command does what is missing")
        return error if isinstance(error, Exception) else BnrecalError(repr(error))

    def end(self, *, kill: bool) -> None:
        """End the process, which has no more results to lose.

        Args:
            kill: at once. A process that ends by itself frees its semaphores (tqdm has some), where Python would print
                a warning about them; one that does not do so within `_PATIENCE` is killed too.
        """
        if self.executor is None:
            return
        if not kill:
            closing = threading.Thread(target=self.executor.shutdown, daemon=True)
            closing.start()
            closing.join(_PATIENCE)
            kill = closing.is_alive()
        if kill:
            self.executor.shutdown(kill_workers=True)
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
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_AT_PARENT)
    os._exit(1)
