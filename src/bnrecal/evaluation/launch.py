"""One process for each GPU of this machine, started and watched by torch's elastic launcher."""

import logging
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bnrecal.errors import BnrecalError

Result = TypeVar("Result")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_on_ranks(function: Callable[..., Result], world: int, *args: Any) -> list[Result]:
    """[function(rank, world, *args) for rank in range(world)], each in a process of its own.

    The processes end with the first failure, with Ctrl-C, and with this process, however that ends.

    Args:
        function: importable by name; it and `args` are pickled, so tensors should be on the CPU.

    Raises:
        BnrecalError: as the first rank that failed raised it, or telling what else it raised or how it died; if
            something cannot be pickled.
    """
    try:
        payload = pickle.dumps((function, args))  # by value: the default shares tensors through a small /dev/shm
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BnrecalError(f"cannot send the networks to other processes ({error}): set gpus=1") from error
    with tempfile.TemporaryDirectory(prefix="bnrecal-") as folder, _quiet(), _own_signals():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=world,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.2,
            start_method="spawn",  # CUDA does not survive a fork
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            results: dict[int, Result] = elastic_launch(config, _work)(world, payload, folder)
        except ChildFailedError as error:
            raise BnrecalError(_reason(error, Path(folder))) from error
        except SignalException as error:
            raise KeyboardInterrupt from error
    return [results[rank] for rank in range(world)]


def _work(world: int, payload: bytes, folder: str) -> Any:
    """What each process does; a failure is left in a file, for the process that started it to tell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # also sent when the parent dies
    rank = int(os.environ["RANK"])
    try:
        function, args = pickle.loads(payload)
        return function(rank, world, *args)
    except BnrecalError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 (told by the parent)
        reason = describe(error, rank)
    Path(folder, f"rank{rank}.txt").write_text(reason)
    sys.exit(1)


def describe(error: Exception, rank: int) -> str:
    """An unexpected error in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"rank {rank}: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def _reason(error: ChildFailedError, folder: Path) -> str:
    rank, failure = error.get_first_failure()
    told = folder / f"rank{rank}.txt"
    if told.exists():
        return told.read_text()
    code = failure.exitcode
    how = signal.Signals(-code).name if code < 0 else f"status {code}"
    return f"the process of rank {rank} died with {how} (out of memory?); what was finished is kept"


@contextmanager
def _quiet() -> Iterator[None]:
    """The launcher reports a failed process in a screenful: here it becomes one line."""
    log = logging.getLogger("torch.distributed.elastic")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _own_signals() -> Iterator[None]:
    """The launcher leaves its signal handlers behind: give the former ones back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
