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
from bnrecal.nbsmt.engines.cpu.kernels.simd_f32 import (
    LANES,
    POSITIONS,
    VECTOR_BYTES,
    any_nan,
    f32x16x4,
    round_to_bytes,
    zero_f32x16x4,
)
from bnrecal.nbsmt.engines.cpu.kernels.simd_u8 import broadcast, intrinsic, load_at, splat, store_at

# ruff: noqa: ARG001
SPARE_BYTES = 4 * VECTOR_BYTES  # of scratch for each worker: the last values and their residual, in whole vectors
TOGETHER = LANES * POSITIONS  # values of a row that are ended together
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
    "not_finite",  # made 1 where a result is NaN or infinite; for levels, where it was before the clamp
    "scratch",  # SPARE_BYTES for each worker
    floats=("lowest", "highest", "inverse"),  # of levels, lowest and highest are the clamp's times the inverse
)


def _end(vectors: int, residual: bool, to_levels: bool) -> Any:
    """Make the intrinsic that ends so many vectors of 16 values, and returns what is NaN once one was not finite."""

    @intrinsic
    def end(
        _context: Any,
        trouble: Any,
        target: Any,
        source: Any,
        added: Any,
        alpha: Any,
        beta: Any,
        lowest: Any,
        highest: Any,
        inverse: Any,
    ) -> Any:
        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            trouble, target, source, added, alpha, beta = args[:6]
            lowest, highest, inverse = [broadcast(builder, value, _FLOATS) for value in args[6:]]
            signature = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
            fma = builder.module.declare_intrinsic(f"llvm.fma.v{LANES}f32", (), signature)
            for i in range(vectors):
                at = VECTOR_BYTES * i
                y = builder.call(fma, [load_at(builder, a, _FLOATS, at, 4) for a in (source, alpha, beta)])
                if residual:
                    y = builder.fadd(y, load_at(builder, added, _FLOATS, at, 4))
                ended = builder.fmul(y, inverse) if to_levels else y
                # Both comparisons are false for NaN, which stays.
                ended = builder.select(builder.fcmp_ordered("olt", ended, lowest), lowest, ended)
                ended = builder.select(builder.fcmp_ordered("ogt", ended, highest), highest, ended)
                if to_levels:
                    store_at(builder, target, round_to_bytes(builder, ended), LANES * i)
                else:
                    store_at(builder, target, ended, at, 4)
                # 0 times infinity or NaN is NaN, and NaN stays in the sum.
                checked = y if to_levels else ended
                total = builder.extract_value(trouble, i)
                total = builder.call(fma, [checked, splat(0.0, _FLOATS), total])
                trouble = builder.insert_value(trouble, total, i)
            return trouble

        return f32x16x4(f32x16x4, *(types.uint64,) * 5, *(types.float32,) * 3), code

    return end


def _end_rest(end_one: Any, residual: bool, to_levels: bool) -> Any:
    """Make the function that ends the last values, fewer than 16, the i-th and after it, in scratch."""
    size = u64(1 if to_levels else 4)

    @compiled
    def end_rest(trouble: Any, i: u64, count: u64, lane: u64, args: Any, spare: u64) -> Any:
        more = spare + u64(VECTOR_BYTES)
        v.clear(spare, u64(SPARE_BYTES))  # what lies behind them must be finite
        v.copy(spare, args.source + u64(4) * i, u64(4) * count)
        if residual:
            v.copy(more, args.residual + u64(4) * i, u64(4) * count)
        a = args.alpha + u64(4) * lane
        b = args.beta + u64(4) * lane
        trouble = end_one(trouble, spare, spare, more, a, b, args.lowest, args.highest, args.inverse)
        v.copy(args.target + size * i, spare, size * count)
        return trouble

    return end_rest


def _end_rows(residual: bool, to_levels: bool) -> Any:
    """Make the function that ends values first..last-1, the first of which begins a row."""
    end_many = _end(POSITIONS, residual, to_levels)
    end_one = _end(1, residual, to_levels)
    end_rest = _end_rest(end_one, residual, to_levels)
    size = u64(1 if to_levels else 4)

    @compiled
    def end_rows(first: u64, last: u64, args: Any, spare: u64) -> Any:
        # Read once: the compiler cannot know that no target lies in the record.
        source = args.source
        target = args.target
        added = args.residual
        alpha = args.alpha
        beta = args.beta
        lanes = args.lanes
        lowest = args.lowest
        highest = args.highest
        inverse = args.inverse
        trouble = zero_f32x16x4()
        i = first
        while i < last:
            row = min(lanes, last - i)
            lane = u64(0)
            while lane + u64(TOGETHER) <= row:
                at = u64(4) * (i + lane)
                a = alpha + u64(4) * lane
                b = beta + u64(4) * lane
                out = target + size * (i + lane)
                trouble = end_many(trouble, out, source + at, added + at, a, b, lowest, highest, inverse)
                lane += u64(TOGETHER)
            while lane + u64(LANES) <= row:
                at = u64(4) * (i + lane)
                a = alpha + u64(4) * lane
                b = beta + u64(4) * lane
                out = target + size * (i + lane)
                trouble = end_one(trouble, out, source + at, added + at, a, b, lowest, highest, inverse)
                lane += u64(LANES)
            if lane < row:
                trouble = end_rest(trouble, i + lane, row - lane, lane, args, spare)
            i += lanes
        return any_nan(trouble)

    return end_rows


_end_alone = _end_rows(residual=False, to_levels=False)
_end_added = _end_rows(residual=True, to_levels=False)
_end_alone_levels = _end_rows(residual=False, to_levels=True)
_end_added_levels = _end_rows(residual=True, to_levels=True)


@compiled
def _end_block(first: u64, last: u64, args: Any, spare: u64) -> Any:
    """End a block of values; return whether one was not finite."""
    if args.target_bytes == u64(4):
        if args.residual:
            return _end_added(first, last, args, spare)
        return _end_alone(first, last, args, spare)
    if args.residual:
        return _end_added_levels(first, last, args, spare)
    return _end_alone_levels(first, last, args, spare)


@kernel_entry
def kernel(address: Any) -> None:
    """End every value, a block a unit."""
    args = carray(address, 1, ARGS)[0]
    spare = args.scratch + v.claim(args.address + u64(16)) * u64(SPARE_BYTES)
    trouble = False
    while True:
        i = v.claim(args.address + u64(8)) * args.block
        if i >= args.values:
            break
        if _end_block(i, min(i + args.block, args.values), args, spare):
            trouble = True
    if trouble:
        args.not_finite = u64(1)


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
