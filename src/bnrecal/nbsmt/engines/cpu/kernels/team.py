"""Compiled work spread over as many processor threads ("workers") as torch uses."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch


def run_on_workers(work: Any, address: int, workers: int) -> None:
    """Call `work` (a numba CFunc of one address, which shares its units out itself) on `workers` workers at once."""
    if workers <= 1:
        work.ctypes(address)
        return
    team = _torch_team()
    if team is not None:
        team(ctypes.c_void_p(work.address), ctypes.c_void_p(address), workers, 0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work.ctypes, [address] * workers))


@cache
def _torch_team() -> Any | None:
    """`GOMP_parallel` of the OpenMP library that torch itself runs on, if it does.

    Looked up through torch's own library, which finds it among the libraries it was linked with. A thread pool of our
    own would wait for cores on which torch's idle workers still spin.
    """
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
