"""One function on several ranks, each in a process of its own on this machine: what `gpus=N` does."""

import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from bnrecal.errors import BnrecalError, with_place
from bnrecal.processes import ProcessDied, in_processes

R = TypeVar("R")


def run_on_ranks(function: Callable[..., R], world: int, *args: Any) -> list[R]:
    """Return [function(rank, world, *args) for rank in range(world)], each computed in a process of its own.

    The processes end with the first failure, with Ctrl-C, and with this process, however that ends.

    Args:
        args: pickled, so tensors should be on the CPU.

    Raises:
        BnrecalError: as the first rank that failed raised it, or saying what else it raised or that it died; if
            something cannot be pickled.
    """
    work = partial(_compute, function, pickled(args), world)
    results: dict[int, R] = {}
    for rank, result in in_processes(work, range(world), world):
        if isinstance(result, ProcessDied):
            raise BnrecalError(f"the process of rank {rank} died (out of memory?); what was finished is kept")
        if isinstance(result, Exception):
            raise result
        results[rank] = result
    return [results[rank] for rank in range(world)]


def pickled(args: tuple[Any, ...]) -> bytes:
    """Pickle arguments by value: torch's way to other processes shares tensors through a /dev/shm that may be small.

    Raises:
        BnrecalError: if something cannot be pickled.
    """
    try:
        return pickle.dumps(args)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BnrecalError(f"cannot send the networks to other processes ({error}): set gpus=1") from error


def call(function: Callable[..., R], args: bytes, rank: int, world: int) -> R:
    """Return function(rank, world, *args), the arguments as `pickled` made them.

    Raises:
        BnrecalError: as the function raised it, or naming any other exception with its place.
    """
    try:
        return function(rank, world, *pickle.loads(args))
    except BnrecalError:
        raise
    except Exception as error:
        raise BnrecalError(f"rank {rank}: {with_place(error)}") from error


def _compute(function: Callable[..., R], args: bytes, world: int, rank: int) -> R:
    if rank == 0:
        sys.stderr = sys.__stderr__  # the progress bars of one process are readable
    return call(function, args, rank, world)
