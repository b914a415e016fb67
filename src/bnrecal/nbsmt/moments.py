"""Mean and variance of each channel of a batch: the same bits whatever the number of workers or the processor.

A float32 sum depends on the order of its terms, and torch's order on how many workers share it. NB-SMT turns a last
bit into one of 16 levels now and then, and so a recalibrated cell would move by tenths of a point. Here the sums are
float64, in an order that follows from the shape alone: a batch is cut into blocks of rows, each is summed row by row,
then the blocks are added in their order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, cfunc, config, types  # type: ignore[attr-defined]
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from torch import Tensor

from bnrecal.nbsmt.cpu.team import run_on_workers
from bnrecal.nbsmt.cpu.vectors import claim

BLOCK = 16384  # values of a block: they stay in a worker's first-level cache
LANES = 64  # sums side by side: rows of fewer channels are taken several at a time
# Of a job: the addresses of source, origin and sums, the values in all, side by side and in a block, the counter's
# address, and the counter of blocks.
WORDS, COUNTER = 8, 7


@dataclass(frozen=True)
class Moments:
    """Of some values of each channel.

    Attributes:
        count: values per channel.
        mean: float64 (C,).
        squares: float64 (C,), the sum of squared deviations from the mean.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """float64 (C,), the mean squared deviation."""
        return self.squares / self.count

    @property
    def unbiased_variance(self) -> Tensor:
        """float64 (C,); of a single value NaN."""
        return self.squares / (self.count - 1)

    @property
    def finite(self) -> bool:
        """Whether mean and variance are numbers that float32 holds: of a NaN or an infinity among the values no."""
        return bool(torch.isfinite(torch.stack([self.mean, self.variance]).float()).all())


def batch_moments(x: Tensor) -> Moments:
    """The moments of each channel.

    Args:
        x: float32 (N, C, ...), at least one value per channel; fastest with the channels last in memory.
    """
    rows = x.detach().movedim(1, -1).reshape(-1, x.shape[1])  # (N * positions, C), the order of the sums
    origin = rows[0].double()  # sums of squares lose no digits when taken about a value of the channel's own
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and worker() is not None:
        sums = _compiled_sums(rows.contiguous(), origin)
    else:
        sums = _plain_sums(rows, origin)
    count = rows.shape[0]
    shift = sums[0] / count
    return Moments(count, origin + shift, (sums[1] - sums[0] * shift).clamp_(min=0))


def _plain_sums(rows: Tensor, origin: Tensor) -> Tensor:
    """Sums and sums of squares, float64 (2, C), about `origin`; block after block in plain torch."""
    total = torch.zeros(2, rows.shape[1], dtype=torch.float64, device=rows.device)
    height = max(1, 2**24 // rows.shape[1])
    for first in range(0, rows.shape[0], height):
        shifted = rows[first : first + height].double().sub_(origin)
        total[0] += shifted.sum(0)
        total[1] += shifted.square_().sum(0)
    return total


def _compiled_sums(rows: Tensor, origin: Tensor) -> Tensor:
    """As `_plain_sums`, by the kernel."""
    count, channels = rows.shape
    lanes = channels * max(1, LANES // channels)
    block = lanes * max(1, BLOCK // lanes)
    blocks = -(-count * channels // block)
    sums = np.zeros((blocks, 2, lanes))
    origins = origin.repeat(lanes // channels)
    job = np.zeros(WORDS, np.uint64)
    job[:6] = rows.data_ptr(), origins.data_ptr(), sums.ctypes.data, count * channels, lanes, block
    job[6] = job.ctypes.data + 8 * COUNTER
    run_on_workers(worker(), job.ctypes.data, min(torch.get_num_threads(), blocks))
    by_lane = np.add.reduce(sums, axis=0).reshape(2, -1, channels)  # along the first axis NumPy adds in order
    return torch.from_numpy(np.add.reduce(by_lane, axis=1))


_array: Any = carray


def _intrinsic(typed: Callable[..., Any]) -> Any:
    return intrinsic(typed)


@_intrinsic
def _pointer(_context: Any, address: Any) -> Any:  # noqa: ARG001 (numba looks at the arguments)
    """The void pointer to an address (uint64)."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), code


def _work(address: Any) -> None:
    """One worker's share of the job at an address: blocks, until none is left."""
    # Unsigned numbers (a signed index could count from the end) and two arrays of sums: LLVM then makes vectors.
    job = _array(address, WORDS, np.uint64)
    values, lanes, block = job[3], job[4], job[5]
    origin = _array(_pointer(job[1]), lanes, np.float64)
    while True:
        number = claim(job[6])
        row = number * block
        if row >= values:
            return
        last = min(row + block, values)
        target, bytes_each = job[2] + np.uint64(16) * lanes * number, np.uint64(8) * lanes
        sums = _array(_pointer(target), lanes, np.float64)
        squares = _array(_pointer(target + bytes_each), lanes, np.float64)
        while row < last:
            count = min(lanes, last - row)
            source = _array(_pointer(job[0] + np.uint64(4) * row), count, np.float32)
            for lane in range(count):
                shifted = np.float64(source[lane]) - origin[lane]
                sums[lane] += shifted
                squares[lane] += shifted * shifted
            row += lanes


@cache
def worker() -> Any | None:
    """`_work` as a C function (numba's CFunc), or None where numba is switched off or cannot compile here."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None
    signature = types.void(types.voidptr)
    try:
        return cfunc(signature, cache=True)(_work)
    except RuntimeError:  # no folder to keep it in
        return cfunc(signature)(_work)
    except (OSError, NumbaError):
        return None
