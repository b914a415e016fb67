"""Launching kernels: tile sizes tuned for each shape at its first use, and kept in Triton's cache on disk."""

import inspect
import os
import zlib
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import triton
from triton.errors import TritonError

from bnrecal.errors import first_line
from bnrecal.nbsmt.engines.gpu import kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # the kernels run in numpy, on the CPU's tensors
SMALL = {"BM": 64, "BN": 16, "BK": 32}  # for the interpreter, which multiplies whatever the size
# (rows, filters, channels) of a tile, warps, stages of the load pipeline; none spills registers on sm_80, 89 and 90.
# WIDE would spill before sm_90, and with a second accumulator (SPLIT) every tile of more than ROOM sums a lane.
WIDE, ROOM = (128, 256, 128, 8, 3), 32
TILES = (
    (128, 128, 128, 8, 3),
    (128, 128, 64, 8, 4),
    (64, 128, 128, 4, 4),
    (128, 64, 128, 8, 4),
    (64, 64, 128, 4, 4),
    (64, 64, 64, 4, 5),
    (128, 32, 64, 4, 5),
    (64, 16, 64, 4, 5),
    (128, 128, 32, 8, 5),
    (128, 32, 32, 4, 5),
    (64, 64, 32, 4, 5),
    (64, 16, 32, 4, 5),
)


TRIAL = 32  # numbers that the trivial kernel writes
# Multiply, round, add, round: as the CPU does, so that both give the same float32.
ROUNDED = {"enable_fp_fusion": False}


def try_launch(device: torch.device) -> bool:
    """Start a trivial kernel on this GPU; whether it wrote what it should.

    Raises:
        RuntimeError, OSError, SubprocessError, AssertionError: as Triton does where it finds no C compiler, no Python
            headers or no driver, cannot write its cache or cannot compile.
    """
    y = torch.zeros(TRIAL, dtype=torch.int32, device=device)
    try:
        with current(device):
            kernels.trial[(1,)](y, COUNT=TRIAL)
    except TritonError as error:
        raise RuntimeError(first_line(error)) from error
    return y.tolist() == [3 * i for i in range(TRIAL)]


def current(device: torch.device) -> AbstractContextManager[object]:
    """A block in which this is the current CUDA device, for Triton launches there, wherever the tensors lie."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def launch(kernel: Any, grid: tuple[int, int], *args: Any, **meta: Any) -> None:
    """Start a kernel."""
    kernel[grid](*args, **meta, **ROUNDED)


def multiply(shape: tuple[object, ...], **arguments: Any) -> None:
    """Start `kernels.conv_int8` with the best tile for this kind of `shape`.

    All tiles give the same integers, so the same results.
    """
    rows, filters, bundles = arguments["rows"], arguments["filters"], arguments["bundles"]

    def grid(tile: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(rows, tile["BM"]) * triton.cdiv(filters, tile["BN"]) * bundles,)

    if INTERPRETED:
        kernels.conv_int8[grid](**arguments, tuning=0, **SMALL, **ROUNDED)
        return
    device = arguments["x"].device
    kernel = _tuned_kernel(torch.cuda.get_device_capability(device))
    kernel[grid](**arguments, tuning=_fingerprint(torch.cuda.get_device_name(device), *shape), **ROUNDED)


@cache
def _tuned_kernel(capability: tuple[int, int]) -> Any:
    tiles = (*TILES, WIDE) if capability == (9, 0) else TILES
    configs = [
        triton.Config({"BM": bm, "BN": bn, "BK": bk}, num_warps=warps, num_stages=stages)
        for bm, bn, bk, warps, stages in tiles
    ]
    known = inspect.signature(triton.autotune).parameters
    kept = {"cache_results": True} if "cache_results" in known else {}  # since Triton 3.3
    tune = triton.autotune(configs, ["tuning"], prune_configs_by={"early_config_prune": fitting_tiles}, **kept)
    return tune(kernels.conv_int8)


def fitting_tiles(configs: list[Any], arguments: dict[str, Any], **more: Any) -> list[Any]:
    """The tiles worth trying: BK one of the two largest that divide the channels, BN no wider than the filters need."""
    given = {**arguments, **more}
    depths = {c.kwargs["BK"] for c in configs}
    steps = [bk for bk in sorted(depths, reverse=True) if given["depth"] % bk == 0][:2]
    widest = max(16, triton.next_power_of_2(given["filters"]))
    return [
        c
        for c in configs
        if c.kwargs["BK"] in steps
        and c.kwargs["BN"] <= widest
        and (not given["SPLIT"] or has_room(c.kwargs["BM"], c.kwargs["BN"], c.num_warps))
    ]


def has_room(bm: int, bn: int, warps: int) -> bool:
    """Return whether each lane can hold a second accumulator."""
    return bm * bn <= ROOM * 32 * warps


def _fingerprint(*parts: object) -> int:
    """Return what a tile is tuned for as one number, the only key that Triton's tuner looks at."""
    return zlib.crc32(repr(parts).encode()) & 0x7FFFFFFF
