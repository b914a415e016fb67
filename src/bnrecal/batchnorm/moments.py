"""Mean and variance of each channel of a batch: the same bits whatever the number of workers or the processor.

A float32 sum depends on the order of its terms, and torch's order on how many workers share it. NB-SMT turns a last
bit into one of 16 levels now and then, and so a recalibrated cell would move by tenths of a point. Here the sums are
float64, in an order that follows from the shape alone: a batch is cut into blocks of rows, each is summed row by row,
then the blocks are added in their order.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import u64
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compile_kernel, run_kernel

BLOCK = 16384  # values of a block: they stay in a worker's first-level cache
LANES = 64  # sums side by side: rows of fewer channels are taken several at a time
JOB = args_dtype(
    "source",  # float32 (values,)
    "origin",  # float64 (lanes,), what is taken off each value
    "sums",  # float64 (units, 2, lanes)
    "values",
    "lanes",  # a multiple of the channels
    "block",  # a multiple of the lanes
)


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
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and kernel() is not None:
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
    args = np.zeros((), JOB)
    args["source"] = rows.data_ptr()
    args["origin"] = origins.data_ptr()
    args["sums"] = sums.ctypes.data
    args["values"] = count * channels
    args["lanes"] = lanes
    args["block"] = block
    run_kernel(kernel(), args, blocks)
    by_lane = np.add.reduce(sums, axis=0).reshape(2, -1, channels)  # along the first axis NumPy adds in order
    return torch.from_numpy(np.add.reduce(by_lane, axis=1))


def _make(sources: str) -> Any:
    def sum_blocks(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        # Unsigned numbers (a signed index could count from the end) and two arrays of sums: LLVM then makes vectors.
        args = carray(address, 1, JOB)[0]
        values, lanes, block = args.values, args.lanes, args.block
        origin = carray(v.pointer(args.origin), lanes, np.float64)
        while True:
            number = v.claim(args.address + u64(8))
            row = number * block
            if row >= values:
                return
            last = min(row + block, values)
            target = args.sums + u64(16) * lanes * number
            sums = carray(v.pointer(target), lanes, np.float64)
            squares = carray(v.pointer(target + u64(8) * lanes), lanes, np.float64)
            while row < last:
                count = min(lanes, last - row)
                source = carray(v.pointer(args.source + u64(4) * row), count, np.float32)
                for lane in range(count):
                    shifted = np.float64(source[lane]) - origin[lane]
                    sums[lane] += shifted
                    squares[lane] += shifted * shifted
                row += lanes

    return sum_blocks


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
