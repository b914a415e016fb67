"""Squared differences of int32 accumulators, summed by channel in float64, in one pass over memory.

The order of the sums follows from the shape alone, so that they do not depend on the number of workers.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import u64
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compile_kernel, run_kernel

BLOCK = 16384  # values of a unit
LANES = 64  # sums side by side: rows of fewer channels are taken several at a time
ARGS = args_dtype(
    "found",  # int32 (values,)
    "exact",  # int32 (values,)
    "sums",  # float64 (units, 2, lanes)
    "values",
    "lanes",  # a multiple of the channels
    "block",  # a multiple of the lanes
)


def squared_sums(found: Tensor, exact: Tensor) -> Tensor:
    """float64 (2, C): the sums of (found - exact)^2 and of exact^2 over all but the channels.

    Args:
        found, exact: int32 (N, C, H, W), differing by less than 2^31; fastest channels-last.
    """
    if found.device.type != "cpu" or kernel() is None:
        errors, squares = (found - exact).double(), exact.double()
        return torch.stack([errors.square_().sum((0, 2, 3)), squares.square_().sum((0, 2, 3))])
    rows = [x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous() for x in (found, exact)]
    values, channels = found.numel(), found.shape[1]
    lanes = channels * max(1, LANES // channels)
    block = lanes * max(1, BLOCK // lanes)
    sums, args = np.zeros((-(-values // block), 2, lanes)), np.zeros((), ARGS)
    args["found"], args["exact"] = (x.data_ptr() for x in rows)
    args["sums"], args["values"], args["lanes"], args["block"] = sums.ctypes.data, values, lanes, block
    run_kernel(kernel(), args, len(sums))
    by_lane = np.add.reduce(sums, axis=0).reshape(2, -1, channels)  # along the first axis NumPy adds in order
    return torch.from_numpy(np.add.reduce(by_lane, axis=1))


def _make(sources: str) -> Any:
    def square_blocks(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        args = carray(address, 1, ARGS)[0]
        values, lanes, block = np.int64(args.values), np.int64(args.lanes), np.int64(args.block)
        found, exact = carray(v.pointer(args.found), values, np.int32), carray(v.pointer(args.exact), values, np.int32)
        while True:
            first = np.int64(v.claim(args.address + u64(8))) * block
            if first >= values:
                return
            place = args.sums + u64(16) * u64(first // block * lanes)
            sums = carray(v.pointer(place), (2, lanes), np.float64)
            last = min(first + block, values)
            for row in range(first, last, lanes):
                for lane in range(min(lanes, last - row)):
                    error = np.float64(found[row + lane] - exact[row + lane])
                    square = np.float64(exact[row + lane])
                    sums[0, lane] += error * error
                    sums[1, lane] += square * square

    return square_blocks


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
