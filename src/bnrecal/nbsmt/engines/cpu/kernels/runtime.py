"""Kernels as C functions of one address, run on all of torch's workers at once.

A kernel takes the address of its *args*: one record of sizes, addresses and counters. Any number of workers may work on
the same args together: each claims the next unit until none is left. Compiled code is kept in numba's cache, and where
no folder can be written it is compiled again in every process.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numba import cfunc, config, njit, types
from numba.core.errors import NumbaError
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels.cache_key import cache_key
from bnrecal.nbsmt.engines.cpu.kernels.team import run_on_workers

Function = TypeVar("Function", bound=Callable[..., Any])
Args = np.ndarray[Any, np.dtype[np.void]]
ALIGNMENT = 64
SLACK = 4096  # bytes behind a buffer that vectors may read


def compiled(function: Function) -> Function:
    """A function for kernels to call. It is not kept by itself: a kernel is kept with all it calls."""
    dispatcher: Any = njit(nogil=True)(function)
    return dispatcher  # type: ignore[no-any-return]


def args_dtype(*names: str, floats: tuple[str, ...] = ()) -> "np.dtype[np.void]":
    """A record: uint64 `address` (of itself), `next_unit`, `next_worker`, and those named; then float32."""
    words = [(name, "u8") for name in ("address", "next_unit", "next_worker", *names)]
    return np.dtype(words + [(name, "f4") for name in floats])


def compile_kernel(make: Callable[[str], Callable[[Any], None]]) -> Any | None:
    """What `make` makes, as a C function, or None where numba is switched off or cannot compile here.

    Args:
        make: what makes a function of one address that holds the key it is made with: numba's cache tells kernels apart
            by what they hold.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None
    kernel, signature = make(cache_key(make.__module__)), types.void(types.voidptr)
    try:
        return cfunc(signature, cache=True)(kernel)
    except RuntimeError:  # no folder to keep it in
        try:
            return cfunc(signature)(kernel)
        except (RuntimeError, NumbaError):
            return None
    except (OSError, NumbaError):
        return None


def copy_args(args: Args) -> Args:
    """Another record of the same values; NumPy's own copy goes field by field and takes ten times as long."""
    made: Args = np.ndarray((), args.dtype, bytearray(args.tobytes()))
    return made


def run_kernel(kernel: Any, args: Args, units: int) -> None:
    """Run a kernel over so many units, on as many workers as torch uses."""
    args["address"] = args.ctypes.data
    run_on_workers(kernel, args.ctypes.data, min(torch.get_num_threads(), units))


_local = threading.local()


def buffer(name: str, size: int) -> Tensor:
    """uint8 (size,) on a 64-byte boundary with SLACK behind it, one of each name in each thread.

    It is kept, because fresh pages cost more than what is written to them, and shared by all layers.
    """
    held: Tensor | None = getattr(_local, name, None)
    if held is None or held.numel() < size + SLACK:
        with torch.inference_mode(False):  # made there, it could not be written to elsewhere
            fresh = torch.empty(size + SLACK + ALIGNMENT, dtype=torch.uint8)
        held = fresh[-fresh.data_ptr() % ALIGNMENT :]
        setattr(_local, name, held)
    return held[:size]


def scratch(name: str, bytes_each: int) -> int:
    """The address of so many bytes for every worker."""
    return buffer(name, bytes_each * torch.get_num_threads()).data_ptr()
