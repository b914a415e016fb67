"""Kernels as C functions of one address, run on all of torch's workers at once.

A kernel takes the address of its *args*: one record of sizes, addresses and counters. Any number of workers may work on
the same args together: each claims the next unit until none is left. Compiled code is kept in numba's cache, and where
no folder can be written it is compiled again in every process.
"""

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numba import cfunc, config, njit, types
from numba.core.errors import NumbaError
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels.cache_key import cache_key

Function = TypeVar("Function", bound=Callable[..., Any])
Kernel: TypeAlias = Callable[[], Any | None]  # the C function, None where numba cannot compile
Args = np.ndarray[Any, np.dtype[np.void]]
u64 = np.uint64  # addresses and counts within kernels: mixed with signed integers they would become floats
MANY = 1 << 40  # the length of an array that a kernel sees at an address: `carray` wants one
ALIGNMENT = 64
SLACK = 4096  # bytes behind a buffer that vectors may read


def compiled(function: Function) -> Function:
    """Compile a function for kernels to call. It is not kept by itself: a kernel is kept with all it calls."""
    dispatcher: Any = njit(nogil=True)(function)
    return dispatcher  # type: ignore[no-any-return]


def args_dtype(*names: str, floats: tuple[str, ...] = ()) -> "np.dtype[np.void]":
    """Return the type of a record: uint64 `address` (its own), `next_unit`, `next_worker`, `names`; then float32."""
    words = [(name, "u8") for name in ("address", "next_unit", "next_worker", *names)]
    return np.dtype(words + [(name, "f4") for name in floats])


def kernel_entry(function: Callable[[Any], None]) -> Kernel:
    """Make a kernel of a function of one address; it is compiled when it is first asked for.

    Returns:
        A function without arguments that returns the C function, or None where numba is switched off or cannot compile.

    Example:
        >>> @kernel_entry
        ... def kernel(address):
        ...     args = carray(address, 1, ARGS)[0]
        >>> run_kernel(kernel(), new_args(ARGS, ...), units)
    """
    # numba names what it keeps by the function's file and name: with the key in the name, an edit of any source of the
    # kernel, or another compiler or processor, finds nothing kept.
    plain_name = function.__qualname__

    @cache
    def compile_once() -> Any | None:
        function.__qualname__ = f"{plain_name}_{cache_key(function.__module__)[:16]}"
        return _compile(function)

    return compile_once


def _compile(function: Callable[[Any], None]) -> Any | None:
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None
    signature = types.void(types.voidptr)
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        try:
            return cfunc(signature)(function)
        except (RuntimeError, NumbaError):
            return None
    except (OSError, NumbaError):
        return None


def new_args(dtype: "np.dtype[np.void]", **values: float) -> Args:
    """Return a record with these values and its address, and zeros in its other fields."""
    args = np.zeros((), dtype)
    return set_args(args, address=args.ctypes.data, **values)


def set_args(args: Args, **values: float) -> Args:
    """Write values into the fields of their names, and return the record."""
    for name, value in values.items():
        args[name] = value
    return args


def copy_args(args: Args) -> Args:
    """Return another record of the same values but its address.

    NumPy's own copy goes field by field and takes ten times as long.
    """
    made: Args = np.ndarray((), args.dtype, bytearray(args.tobytes()))
    made["address"] = made.ctypes.data
    return made


class OwnArgs(threading.local):
    """Each thread's own copy of a record, for all its calls: to make one takes longer than to write what differs.

    Whatever differs between calls is to be written anew in each.
    """

    def __init__(self, args: Args) -> None:
        self.args = copy_args(args)


def run_kernel(kernel: Any, args: Args, units: int) -> None:
    """Run a kernel over so many units, on as many workers as torch uses; the record is one of the above."""
    args["next_unit"] = 0
    args["next_worker"] = 0
    _run_on_workers(kernel, int(args["address"]), min(torch.get_num_threads(), units))


def _run_on_workers(kernel: Any, address: int, workers: int) -> None:
    """Call a C function on so many workers at once; its units they share out themselves."""
    if workers <= 1:
        _c_function(kernel.address)(address)
        return
    team = _torch_team()
    if team is not None:
        team(kernel.address, address, workers, 0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(kernel.ctypes, [address] * workers))


@cache
def _c_function(address: int) -> Callable[[int], None]:
    """Return the kernel at an address as ctypes calls it; numba makes a new type for it each time it is asked."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def _torch_team() -> Any | None:
    """Return `GOMP_parallel` of the OpenMP library that torch itself runs on, None where there is none.

    It is looked up through torch's own library, which finds it among the libraries it was linked with. A thread pool of
    our own would wait for cores on which torch's idle workers still spin.
    """
    try:
        team = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    team.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    team.restype = None
    return team


_local = threading.local()


def buffer(name: str, size: int) -> Tensor:
    """Return uint8 (size,) on a 64-byte boundary with SLACK behind it, one of each name in each thread.

    A buffer is kept, because fresh pages cost more than what is written to them, and shared by all layers.
    """
    return _kept(name, size)[0][:size]


def buffer_address(name: str, size: int) -> int:
    """Return the address of `buffer`."""
    return _kept(name, size)[1]


def scratch(name: str, bytes_each: int) -> int:
    """Return the address of so many bytes for every worker."""
    return _kept(name, bytes_each * torch.get_num_threads())[1]


def _kept(name: str, size: int) -> tuple[Tensor, int]:
    """Return a buffer of at least so many bytes, and its address."""
    kept: tuple[Tensor, int, int] | None = getattr(_local, name, None)
    if kept is None or kept[2] < size:
        with torch.inference_mode(False):  # made there, it could not be written to elsewhere
            fresh = torch.empty(size + SLACK + ALIGNMENT, dtype=torch.uint8)
        whole = fresh[-fresh.data_ptr() % ALIGNMENT :]
        kept = (whole, whole.data_ptr(), size)
        setattr(_local, name, kept)
    return kept[:2]
