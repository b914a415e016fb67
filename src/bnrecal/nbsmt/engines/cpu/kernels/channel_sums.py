"""Two sums of each channel in float64, in one pass over memory: BatchNorm's moments, and squared differences.

Values come channels-last, as one run. A unit is a *block* of them: so many rows of *lanes*, and the lanes are one or
more times the channels. Each lane has two sums of its own in each block, so that the order of all additions follows
from the shape alone and does not depend on the number of workers.
"""

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.engines.cpu.kernels import simd_f64 as d
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compiled, kernel_entry, u64

ARGS = args_dtype(
    "first",  # (values,): float32 for the moments, int32 for squares
    "second",  # for the moments float64 (lanes,), for squares int32 (values,)
    "sums",  # float64 (units, 2, lanes), written
    "values",
    "lanes",  # a multiple of the channels
    "block",  # values of a unit, a multiple of the lanes
)


@compiled
def _clear(args: Any, target: u64) -> None:
    """Set the two sums of each lane to 0."""
    sums = carray(v.pointer(target), u64(2) * args.lanes, np.float64)
    for lane in range(u64(2) * args.lanes):
        sums[lane] = 0.0


@compiled
def _add_moments(args: Any, row: u64, last: u64, target: u64) -> None:
    """Write, for each lane, the sum of values row..last-1 less the origin, and of the squares of that."""
    lanes = args.lanes
    rows = (last - row) // lanes
    vectors = lanes // u64(d.LANES)
    # 16 lanes at a time down all rows: their sums stay in registers. Each lane still adds row after row.
    for vector in range(vectors):
        lane = u64(d.LANES) * vector
        source = args.first + u64(4) * (row + lane)
        origin = args.second + u64(8) * lane
        pair = d.zero_f64x16x2()
        for _ in range(rows):
            pair = d.add_shifted(pair, source, origin)
            source += u64(4) * lanes
        sums = target + u64(8) * lane
        d.store_f64x16x2(pair, sums, sums + u64(8) * lanes)
    done = u64(d.LANES) * vectors
    _add_moments_of_lanes(args, row, row + rows * lanes, target, done)
    _add_moments_of_lanes(args, row + rows * lanes, last, target, u64(0))  # a row that is not full


# Unsigned numbers (a signed index could count from the end) and two arrays of sums: LLVM then makes vectors.
@compiled
def _add_moments_of_lanes(args: Any, row: u64, last: u64, target: u64, begin: u64) -> None:
    """Add the same to the two sums of the lanes from `begin` on, one value at a time."""
    lanes = args.lanes
    origin = carray(v.pointer(args.second), lanes, np.float64)
    sums = carray(v.pointer(target), lanes, np.float64)
    squares = carray(v.pointer(target + u64(8) * lanes), lanes, np.float64)
    while row < last:
        count = min(lanes, last - row)
        source = carray(v.pointer(args.first + u64(4) * row), count, np.float32)
        for lane in range(begin, count):
            shifted = np.float64(source[lane]) - origin[lane]
            sums[lane] += shifted
            squares[lane] += shifted * shifted
        row += lanes


@compiled
def _add_squares(args: Any, row: u64, last: u64, target: u64) -> None:
    """Add (first - second)^2 and second^2 of values row..last-1 to the two sums of each lane."""
    lanes = args.lanes
    errors = carray(v.pointer(target), lanes, np.float64)
    squares = carray(v.pointer(target + u64(8) * lanes), lanes, np.float64)
    while row < last:
        count = min(lanes, last - row)
        first = carray(v.pointer(args.first + u64(4) * row), count, np.int32)
        second = carray(v.pointer(args.second + u64(4) * row), count, np.int32)
        for lane in range(count):
            error = np.float64(first[lane] - second[lane])
            value = np.float64(second[lane])
            errors[lane] += error * error
            squares[lane] += value * value
        row += lanes


@kernel_entry
def moments_kernel(address: Any) -> None:
    """Sum every value less the origin of its lane, and the squares of that."""
    args = carray(address, 1, ARGS)[0]
    while True:
        unit = v.claim(args.address + u64(8))
        first = unit * args.block
        if first >= args.values:
            return
        last = min(first + args.block, args.values)
        target = args.sums + u64(16) * args.lanes * unit
        _clear(args, target)
        _add_moments(args, first, last, target)


@kernel_entry
def squares_kernel(address: Any) -> None:
    """Sum the squared differences of two tensors, and the squares of the second."""
    args = carray(address, 1, ARGS)[0]
    while True:
        unit = v.claim(args.address + u64(8))
        first = unit * args.block
        if first >= args.values:
            return
        last = min(first + args.block, args.values)
        target = args.sums + u64(16) * args.lanes * unit
        _clear(args, target)
        _add_squares(args, first, last, target)
