"""One process a rank: started together, ended together."""

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar, cast

from bnrecal.errors import BnrecalError

Result = TypeVar("Result")


def run_on_ranks(function: Callable[..., Result], world: int, *args: Any) -> list[Result]:
    """[function(rank, world, *args) for rank in range(world)], each in a process of its own.

    The processes end with the first failure, with Ctrl-C, and with this process, however that ends.

    Args:
        function: importable by name; it and `args` are pickled, so tensors should be on the CPU.

    Raises:
        BnrecalError: as the first rank that failed raised it, or telling what else it raised; if something
            cannot be pickled.
    """
    context = get_context("spawn")  # CUDA does not survive a fork
    try:
        payload = pickle.dumps((function, args))  # by value: the default shares tensors through a small /dev/shm
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BnrecalError(f"cannot send the networks to other processes ({error}): set gpus=1") from error
    alive, held = context.Pipe(duplex=False)  # closes with this process
    ranks: list[tuple[SpawnProcess, Connection]] = []
    try:
        for rank in range(world):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(rank, world, payload, sender, alive))
            process.start()
            sender.close()
            ranks.append((process, receiver))
        return _gather(ranks)
    finally:
        for process, _ in ranks:
            process.terminate()
        for process, receiver in ranks:
            process.join()
            receiver.close()
        alive.close()
        held.close()


def _gather(ranks: Sequence[tuple[SpawnProcess, Connection]]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(ranks):
        for receiver in wait([receiver for rank, (_, receiver) in enumerate(ranks) if rank not in results]):
            rank = next(rank for rank, (_, other) in enumerate(ranks) if other is receiver)
            try:
                fine, value = cast(Connection, receiver).recv()
            except EOFError:
                raise BnrecalError(f"the process of rank {rank} died (out of memory?)") from None
            if not fine:
                raise BnrecalError(value)
            results[rank] = pickle.loads(value)
    return [results[rank] for rank in range(len(ranks))]


def _child(rank: int, world: int, payload: bytes, sender: Connection, alive: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    try:
        function, args = pickle.loads(payload)
        sender.send((True, pickle.dumps(function(rank, world, *args))))
    except BnrecalError as error:
        sender.send((False, str(error)))
    except Exception as error:  # noqa: BLE001 (told by the parent)
        place = traceback.extract_tb(error.__traceback__)[-1]
        sender.send((False, f"rank {rank}: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"))


def _end_with_parent(alive: Connection) -> None:
    with suppress(EOFError, OSError):
        alive.recv()
    os._exit(1)
