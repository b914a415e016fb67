"""The jobs of a table or a figure: side by side where that is faster, and one that fails stops no other."""

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from bnrecal.commands.common import describe_error
from bnrecal.commands.interrupt import raise_if_interrupted
from bnrecal.commands.pool import cores, in_processes
from bnrecal.config import Config

J = TypeVar("J")
R = TypeVar("R")


def side_by_side(config: Config, jobs: int | None, count: int) -> int:
    """How many of `count` jobs to run at a time: as many as asked for, else one per core where one core is enough.

    Small networks on images in memory are slower on many cores than one of them on each core.
    """
    if jobs is None:
        from bnrecal.device import find_device
        from bnrecal.nbsmt.cuda.choose import triton_trouble

        device = find_device(config.device, triton_trouble)
        small = config.data.name == "glyphs" and config.gpus == 1 and device.type == "cpu"
        jobs = cores() if small else 1
    return max(1, min(jobs, count))


def attempt_all(
    jobs: Sequence[tuple[str, J]],
    what: str,
    unit: str,
    work: Callable[[J], R],
    take: Callable[[J, R], None],
    processes: int = 1,
) -> list[str]:
    """`work` on every job behind a progress bar; one that fails is told at once and does not stop the others.

    Args:
        jobs: each with the name that people know it by.
        work: may run in another process.
        take: called here with each job and its result, as they finish.
        processes: so many jobs at a time.

    Returns:
        What failed and why, for `raise_failed` once the rest is told.
    """
    failed = []
    bar = tqdm(total=len(jobs), desc=what, unit=unit, disable=None)
    for number, done in _outcomes([job for _, job in jobs], work, processes):
        name, job = jobs[number]
        # what is made of a result may fail like the work itself
        trouble = done if isinstance(done, str) else _attempt(partial(take, job), done[0])
        raise_if_interrupted()
        if isinstance(trouble, str):
            failed.append(f"{name}: {trouble}")
            tqdm.write(f"bnrecal: {failed[-1]}", file=sys.stderr)
        bar.set_postfix_str(name)
        bar.update()
    bar.close()
    return failed


def _outcomes(jobs: Sequence[J], work: Callable[[J], R], processes: int) -> Iterator[tuple[int, tuple[R] | str]]:
    """For each job by its number, as they finish, the result or what went wrong."""
    if processes == 1:
        for number, job in enumerate(jobs):
            yield number, _attempt(work, job)
        return
    for number, done in in_processes(lambda number: _attempt(work, jobs[number]), range(len(jobs)), processes):
        yield number, f"{done}" if isinstance(done, Exception) else done


def _attempt(work: Callable[[J], R], job: J) -> tuple[R] | str:
    """(result,), or one line about whatever was raised."""
    try:
        return (work(job),)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, it is told, and the other jobs still run)
        line, known = describe_error(error)
        place = traceback.extract_tb(error.__traceback__)[-1]
        return line if known else f"{line} ({Path(place.filename).name}, line {place.lineno})"
