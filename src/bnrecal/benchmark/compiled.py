"""float32 as torch.compile runs it: in a process of its own, because compiling may take many minutes."""

import multiprocessing
import os
import signal
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection

from bnrecal.benchmark.networks import COMPILED, VARIANTS, build, random_images
from bnrecal.benchmark.timing import interleaved
from bnrecal.device import choose_device
from bnrecal.memory import keep_freed_memory

GRACE_S = 10.0  # to end by itself once it has answered
LIMIT_S = 75.0  # for starting, compiling and timing: people wait for the benchmark


def time_compiled(name: str, device: str, batch: int, repeats: int, size: int) -> dict[str, float] | str:
    """Median seconds of "float32" and "float32 compiled", or why there are none, in words."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, name, device, batch, repeats, size))
    process.start()
    theirs.close()
    try:
        if not ours.poll(LIMIT_S):
            return f"not within {LIMIT_S:.0f} s"
        answered: dict[str, float] | str = ours.recv()
        process.join(GRACE_S)  # killed, it would leave semaphores behind, and Python a warning about them
        return answered
    except EOFError:
        return "its process ended without an answer"
    finally:
        _end(process)


def _end(process: "multiprocessing.context.SpawnProcess") -> None:
    """The process, and the compilers that it started."""
    if process.pid is not None and hasattr(os, "killpg"):
        # It may have ended by itself, or before it had a group of its own.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _measure(answer: Connection, name: str, device: str, batch: int, repeats: int, size: int) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # its compilers end with it
    answer.send(_times(name, device, batch, repeats, size))


def _times(name: str, device: str, batch: int, repeats: int, size: int) -> dict[str, float] | str:
    keep_freed_memory()
    choose_device(device)
    images = random_images(batch, size, device)
    plain = build(name, VARIANTS["float32"], images).network
    compiled = build(name, VARIANTS[COMPILED], images).network
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return interleaved({"float32": lambda: plain(images), COMPILED: lambda: compiled(images)}, repeats)
    except (RuntimeError, OSError) as error:
        return f"torch.compile failed with {type(error).__name__}"
