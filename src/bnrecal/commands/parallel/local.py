"""The tasks of a table or a figure: side by side where that is faster, and one that fails stops no other."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from bnrecal.commands.cli.errors import describe_error, raise_if_interrupted
from bnrecal.config import Config
from bnrecal.errors import BnrecalError, with_place
from bnrecal.memory import available_memory
from bnrecal.processes import cores, in_processes

log = logging.getLogger("bnrecal")
T = TypeVar("T")
R = TypeVar("R")


TASK_BYTES = 1_500_000_000  # of the process of one: DenseNet-121's came to 1.33 GB, ResNet-50's to 1.26


def side_by_side(config: Config, jobs: int | None, count: int) -> int:
    """Return how many of `count` tasks run at a time: `jobs` if given, else one per core where one core is enough.

    Small networks on images in memory are slower on many cores than one of them on each core. Unless `jobs` is given,
    no more run than the available memory has room for. A line says where it has less room than wanted.
    """
    if jobs is None:
        from bnrecal.device import find_device
        from bnrecal.nbsmt.engines.gpu.choose import triton_trouble

        device = find_device(config.device, triton_trouble)
        small = config.data.name == "glyphs" and config.gpus == 1 and device.type == "cpu"
        wanted = cores() if small else 1
    else:
        wanted = jobs
    wanted = max(1, min(wanted, count))
    available = available_memory()
    if wanted == 1 or available is None or available >= wanted * TASK_BYTES:
        return wanted
    fitting = wanted if jobs is not None else max(1, available // TASK_BYTES)
    log.warning(
        "%d at a time where the memory has room for %.1f GB: each may take %.1f GB (jobs=N sets how many)",
        fitting,
        available / 1e9,
        TASK_BYTES / 1e9,
    )
    return fitting


def attempt_all(
    tasks: Sequence[tuple[str, T]],
    what: str,
    unit: str,
    work: Callable[[T], R],
    take: Callable[[T, R], None],
    processes: int = 1,
) -> list[str]:
    """`work` on every task behind a progress bar; one that fails is reported at once and does not stop the others.

    Args:
        tasks: each with the name that people know it by.
        work: may run in another process.
        take: called here with each task and its result, as they finish.
        processes: so many tasks at a time.

    Returns:
        What failed and why, for `raise_failed` once the rest is reported.
    """
    failed = []
    bar = tqdm(total=len(tasks), desc=what, unit=unit, disable=None)
    for number, outcome in _outcomes([task for _, task in tasks], work, processes):
        name, task = tasks[number]
        # what is made of a result may fail like the work itself
        trouble = outcome if isinstance(outcome, str) else _attempt(partial(take, task), outcome[0])
        raise_if_interrupted()
        if isinstance(trouble, str):
            failed.append(f"{name}: {trouble}")
            tqdm.write(f"bnrecal: {failed[-1]}", file=sys.stderr)
        bar.set_postfix_str(name)
        bar.update()
    bar.close()
    return failed


def raise_failed(failed: Sequence[str], tasks: int, units: str) -> None:
    """Raise BnrecalError if anything failed."""
    if failed:
        raise BnrecalError(f"{len(failed)} of {tasks} {units} failed: {'; '.join(failed)}")


def _outcomes(tasks: Sequence[T], work: Callable[[T], R], processes: int) -> Iterator[tuple[int, tuple[R] | str]]:
    """Yield each task by its number, as they finish, with its result or with what went wrong."""
    if processes == 1:
        for number, task in enumerate(tasks):
            yield number, _attempt(work, task)
        return
    for number, outcome in in_processes(lambda number: _attempt(work, tasks[number]), range(len(tasks)), processes):
        yield number, f"{outcome}" if isinstance(outcome, Exception) else outcome


def _attempt(work: Callable[[T], R], task: T) -> tuple[R] | str:
    """Return (result,), or one line about whatever was raised."""
    try:
        return (work(task),)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, it is reported, and the other tasks still run)
        line, known = describe_error(error)
        return line if known else with_place(error)
