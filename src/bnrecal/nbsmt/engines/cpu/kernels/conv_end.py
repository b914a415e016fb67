"""The end of a convolution in one pass over memory: BatchNorm in evaluation, an addition, a clamp, the next levels.

Values come channels-last, as one run. A *row* is so many of them that it holds each channel equally often and whole
vectors alone (`lanes`): alpha and beta are given for a row. A unit is a block of rows.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]

from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compiled, kernel_entry, u64
from bnrecal.nbsmt.engines.cpu.kernels.simd_u8 import broadcast, intrinsic, levels, load_at, store_at

# ruff: noqa: ARG001
LANES = 16
VECTOR_BYTES = 4 * LANES
SPARE_BYTES = 4 * VECTOR_BYTES  # of scratch for each worker: the last values and their residual, in whole vectors
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
ARGS = args_dtype(
    "source",  # float32 (values,)
    "target",  # float32 (values,), may be the source; or levels, a byte each
    "target_bytes",  # of a value: 4, or 1 for levels
    "residual",  # float32 (values,), or 0
    "alpha",  # float32 (lanes,)
    "beta",
    "values",
    "lanes",  # a multiple of the channels and of LANES
    "block",  # values of a unit, a multiple of the lanes
    "not_finite",  # uint64 (1,), made 1 where a result is NaN or infinite
    "scratch",  # SPARE_BYTES for each worker
    floats=("lowest", "highest", "inverse", "lowest_level", "highest_level"),
)


def _end(residual: bool, to_levels: bool) -> Any:
    """Make the intrinsic that ends 16 values and returns a bit for each that is not finite."""

    @intrinsic
    def end(
        _context: Any,
        target: Any,
        source: Any,
        added: Any,
        alpha: Any,
        beta: Any,
        lowest: Any,
        highest: Any,
        inverse: Any,
        lowest_level: Any,
        highest_level: Any,
    ) -> Any:
        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            target, source, added, alpha, beta = args[:5]
            lowest, highest, inverse, least, most = [broadcast(builder, value, _FLOATS) for value in args[5:]]
            signature = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
            fma = builder.module.declare_intrinsic(f"llvm.fma.v{LANES}f32", (), signature)
            factors = [load_at(builder, address, _FLOATS, align=4) for address in (source, alpha, beta)]
            y = builder.call(fma, factors)
            if residual:
                y = builder.fadd(y, load_at(builder, added, _FLOATS, align=4))
            y = builder.select(builder.fcmp_ordered("olt", y, lowest), lowest, y)  # false for NaN, which stays
            y = builder.select(builder.fcmp_ordered("ogt", y, highest), highest, y)
            if to_levels:
                whole = builder.fptosi(levels(builder, y, inverse, least, most), ir.VectorType(ir.IntType(32), LANES))
                store_at(builder, target, builder.trunc(whole, ir.VectorType(ir.IntType(8), LANES)))
            else:
                store_at(builder, target, y, align=4)
            nothing = builder.fsub(y, y)  # NaN of infinity and of NaN
            bits = builder.bitcast(builder.fcmp_unordered("uno", nothing, nothing), ir.IntType(LANES))
            return builder.zext(bits, ir.IntType(64))

        return types.uint64(*(types.uint64,) * 5, *(types.float32,) * 5), code

    return end


_end_alone = _end(residual=False, to_levels=False)
_end_added = _end(residual=True, to_levels=False)
_end_alone_levels = _end(residual=False, to_levels=True)
_end_added_levels = _end(residual=True, to_levels=True)


@compiled
def _end_vector(target: u64, source: u64, added: u64, lane: u64, args: Any) -> Any:
    """End 16 values, the first of which stands at `lane` of its row; return a bit for each that is not finite."""
    alpha = args.alpha + u64(4) * lane
    beta = args.beta + u64(4) * lane
    lowest = args.lowest
    highest = args.highest
    inverse = args.inverse
    least = args.lowest_level
    most = args.highest_level
    if args.target_bytes == u64(4):
        if args.residual:
            return _end_added(target, source, added, alpha, beta, lowest, highest, inverse, least, most)
        return _end_alone(target, source, added, alpha, beta, lowest, highest, inverse, least, most)
    if args.residual:
        return _end_added_levels(target, source, added, alpha, beta, lowest, highest, inverse, least, most)
    return _end_alone_levels(target, source, added, alpha, beta, lowest, highest, inverse, least, most)


@compiled
def _end_rest(i: u64, count: u64, lane: u64, args: Any, spare: u64) -> Any:
    """End the last values, fewer than 16, in scratch; return a bit for each that is not finite."""
    size = u64(4) * count
    added = spare + u64(VECTOR_BYTES)
    v.copy(spare, args.source + u64(4) * i, size)
    if args.residual:
        v.copy(added, args.residual + u64(4) * i, size)
    bits = _end_vector(spare, spare, added, lane, args)
    v.copy(args.target + args.target_bytes * i, spare, args.target_bytes * count)
    return bits & ((u64(1) << count) - u64(1))


@compiled
def _end_row(i: u64, row: u64, args: Any, spare: u64) -> Any:
    """End a row of so many values, the first of which is the i-th; return 0 if all of them are finite."""
    bits = u64(0)
    lane = u64(0)
    while lane + u64(LANES) <= row:
        at = u64(4) * (i + lane)
        target = args.target + args.target_bytes * (i + lane)
        bits |= _end_vector(target, args.source + at, args.residual + at, lane, args)
        lane += u64(LANES)
    if lane < row:
        bits |= _end_rest(i + lane, row - lane, lane, args, spare)
    return bits


@kernel_entry
def kernel(address: Any) -> None:
    """End every value, a block a unit."""
    args = carray(address, 1, ARGS)[0]
    spare = args.scratch + v.claim(args.address + u64(16)) * u64(SPARE_BYTES)
    bits = u64(0)
    while True:
        i = v.claim(args.address + u64(8)) * args.block
        if i >= args.values:
            break
        last = min(i + args.block, args.values)
        while i < last:
            bits |= _end_row(i, min(args.lanes, last - i), args, spare)
            i += args.lanes
    if bits:
        v.store_u64(args.not_finite, u64(1))


def conv_end_ref(x: Any, alpha: Any, beta: Any, residual: Any, lowest: float, highest: float) -> Any:
    """Return float32 (pixels, channels): each x * alpha + beta rounded once, the residual (or None) added, clamped.

    The product is exact in float64, and so is the sum, or its rounding is of the kind that float32 does not notice:
    give values with few bits.
    """
    y = np.zeros(x.shape, np.float32)
    for place, value in np.ndenumerate(x):
        channel = place[1]
        ended = np.float32(np.float64(value) * np.float64(alpha[channel]) + np.float64(beta[channel]))
        if residual is not None:
            ended = np.float32(ended + residual[place])
        if ended < lowest:
            ended = np.float32(lowest)
        if ended > highest:
            ended = np.float32(highest)
        y[place] = ended
    return y
