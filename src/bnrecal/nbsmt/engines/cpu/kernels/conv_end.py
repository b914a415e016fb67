"""The end of a convolution in one pass over memory: BatchNorm in evaluation, an addition, a clamp, the next levels.

Values come channels-last, as one run. A *row* is so many of them that it holds each channel equally often and whole
vectors alone (`lanes`): alpha and beta are given for a row. A unit is a block of rows.
"""

from collections.abc import Callable
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
    "target",  # float32 (values,), may be the source; 0: the levels alone are written
    "levels",  # bytes (values,); 0: none
    "residual",  # float32 (values,), or 0
    "alpha",  # float32 (lanes,)
    "beta",
    "values",
    "lanes",  # a multiple of the channels and of LANES
    "block",  # values of a unit, a multiple of the lanes
    "not_finite",  # made 1 where a result is NaN or infinite; of levels alone, where it was before the clamp
    "scratch",  # SPARE_BYTES for each worker
    floats=("lowest", "highest", "inverse", "least", "most"),  # the clamp's bounds; of levels, they times the inverse
)
FORMS = ((True, False), (False, True), (True, True))  # what is written: float32, levels, or both


def _end(vectors: int, residual: bool, to_floats: bool, to_levels: bool) -> Any:
    """Make the intrinsic that ends so many vectors of 16 values, and returns what is NaN once one was not finite."""

    @intrinsic
    def end(
        _context: Any,
        trouble: Any,
        target: Any,
        made: Any,
        source: Any,
        added: Any,
        alpha: Any,
        beta: Any,
        lowest: Any,
        highest: Any,
        inverse: Any,
        least: Any,
        most: Any,
    ) -> Any:
        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            trouble, target, made, source, added, alpha, beta = args[:7]
            lowest, highest, inverse, least, most = [broadcast(builder, value, _FLOATS) for value in args[7:]]
            signature = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
            fma = builder.module.declare_intrinsic(f"llvm.fma.v{LANES}f32", (), signature)
            for i in range(vectors):
                at = VECTOR_BYTES * i
                y = builder.call(fma, [load_at(builder, a, _FLOATS, at, 4) for a in (source, alpha, beta)])
                if residual:
                    y = builder.fadd(y, load_at(builder, added, _FLOATS, at, 4))
                if to_floats:
                    y = clamped(builder, y, lowest, highest)
                    store_at(builder, target, y, at, 4)
                if to_levels:
                    level = clamped(builder, builder.fmul(y, inverse), least, most)
                    store_at(builder, made, round_to_bytes(builder, level), LANES * i)
                # 0 times infinity or NaN is NaN, and NaN stays in the sum.
                total = builder.extract_value(trouble, i)
                total = builder.call(fma, [y, splat(0.0, _FLOATS), total])
                trouble = builder.insert_value(trouble, total, i)
            return trouble

        return f32x16x4(f32x16x4, *(types.uint64,) * 6, *(types.float32,) * 5), code

    return end


def clamped(builder: Any, x: Any, lowest: Any, highest: Any) -> Any:
    """Return x within bounds; both comparisons are false for NaN, which stays."""
    x = builder.select(builder.fcmp_ordered("olt", x, lowest), lowest, x)
    return builder.select(builder.fcmp_ordered("ogt", x, highest), highest, x)


def _end_rest(end_one: Any, residual: bool, to_floats: bool, to_levels: bool) -> Any:
    """Make the function that ends the last values, fewer than 16, in scratch."""

    @compiled
    def end_rest(
        trouble: Any, args: Any, source: u64, target: u64, to: u64, added: u64, lane: u64, count: u64, spare: u64
    ) -> Any:
        more = spare + u64(VECTOR_BYTES)
        made = more + u64(VECTOR_BYTES)
        v.clear(spare, u64(SPARE_BYTES))  # what lies behind them must be finite
        v.copy(spare, source, u64(4) * count)
        if residual:
            v.copy(more, added, u64(4) * count)
        a = args.alpha + u64(4) * lane
        b = args.beta + u64(4) * lane
        lowest = args.lowest
        highest = args.highest
        trouble = end_one(trouble, spare, made, spare, more, a, b, lowest, highest, args.inverse, args.least, args.most)
        if to_floats:
            v.copy(target, spare, u64(4) * count)
        if to_levels:
            v.copy(to, made, count)
        return trouble

    return end_rest


def _end_vectors(vectors: int, *form: bool) -> Any:
    """Make the function that ends values first..last-1 of a run, so many vectors of 16 at a time."""
    end = _end(vectors, *form)
    step = LANES * vectors

    @compiled
    def end_vectors(
        trouble: Any, args: Any, source: u64, target: u64, made: u64, added: u64, lane: u64, first: u64, last: u64
    ) -> Any:
        # Read once: the compiler cannot know that no target lies in the record.
        alpha = args.alpha + u64(4) * lane
        beta = args.beta + u64(4) * lane
        lowest = args.lowest
        highest = args.highest
        inverse = args.inverse
        least = args.least
        most = args.most
        i = first
        while i < last:
            at = u64(4) * i
            x = source + at
            out = target + at
            to = made + i
            a = alpha + at
            b = beta + at
            trouble = end(trouble, out, to, x, added + at, a, b, lowest, highest, inverse, least, most)
            i += u64(step)
        return trouble

    return end_vectors


def end_of_run(residual: bool, to_floats: bool, to_levels: bool) -> Any:
    """Make the function that ends a run of values."""
    end_many = _end_vectors(POSITIONS, residual, to_floats, to_levels)
    end_single = _end_vectors(1, residual, to_floats, to_levels)
    end_rest = _end_rest(_end(1, residual, to_floats, to_levels), residual, to_floats, to_levels)

    @compiled
    def end_run(
        trouble: Any, args: Any, source: u64, target: u64, made: u64, added: u64, lane: u64, count: u64, spare: u64
    ) -> Any:
        """End `count` values between these addresses; alpha and beta from `lane` on, and bounds are the record's."""
        many = count - count % u64(TOGETHER)
        whole = count - count % u64(LANES)
        trouble = end_many(trouble, args, source, target, made, added, lane, u64(0), many)
        trouble = end_single(trouble, args, source, target, made, added, lane, many, whole)
        if whole < count:
            at = u64(4) * whole
            rest = count - whole
            x = source + at
            trouble = end_rest(trouble, args, x, target + at, made + whole, added + at, lane + whole, rest, spare)
        return trouble

    return end_run


def _end_rows(end_run: Any) -> Any:
    """Make the function that ends values first..last-1, the first of which begins a row."""

    @compiled
    def end_rows(args: Any, first: u64, last: u64, spare: u64) -> Any:
        trouble = zero_f32x16x4()
        lanes = args.lanes
        i = first
        while i < last:
            at = u64(4) * i
            made = args.levels + i
            added = args.residual + at
            count = min(lanes, last - i)
            trouble = end_run(trouble, args, args.source + at, args.target + at, made, added, u64(0), count, spare)
            i += lanes
        return any_nan(trouble)

    return end_rows


def by_form(make: Callable[[Any], Any]) -> Any:
    """Make the function that does what a record of ARGS asks for, with or without residual, in one of FORMS.

    Args:
        make: from the function that ends a run (`end_of_run`), makes one of a record and other numbers, which returns
            whether a value was not finite.
    """
    alone, alone_levels, alone_both = [make(end_of_run(False, *form)) for form in FORMS]
    added, added_levels, added_both = [make(end_of_run(True, *form)) for form in FORMS]

    @compiled
    def end(args: Any, *rest: Any) -> Any:
        if not args.levels:
            return added(args, *rest) if args.residual else alone(args, *rest)
        if not args.target:
            return added_levels(args, *rest) if args.residual else alone_levels(args, *rest)
        return added_both(args, *rest) if args.residual else alone_both(args, *rest)

    return end


_end_block = by_form(_end_rows)


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
        if _end_block(args, i, min(i + args.block, args.values), spare):
            trouble = True
    if trouble:
        args.not_finite = u64(1)


def conv_end_ref(
    x: Any,
    alpha: Any,
    beta: Any,
    residual: Any,
    clamp: tuple[float, float],
    inverse: float = 1.0,
    limits: tuple[int, int] = (0, 255),
) -> Any:
    """Return what the kernel writes, float32 (pixels, channels) and its levels, int16: by plain loops.

    Each x * alpha + beta is rounded once, the residual (or None) added, clamped; a level is that times `inverse`,
    rounded half to even, within limits. The product is exact in float64, and so is the sum, or its rounding is of the
    kind that float32 does not notice: give values with few bits.
    """
    lowest, highest = clamp
    least, most = limits
    y = np.zeros(x.shape, np.float32)
    levels = np.zeros(x.shape, np.int16)
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
        levels[place] = int(min(max(np.rint(ended * np.float32(inverse)), least), most))
    return y, levels
