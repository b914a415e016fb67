"""The end of a convolution and the max-pooling behind it, in one pass over memory.

A unit is a band of output rows of one image. Input rows are ended into a ring of as many as a window is high, with a
border of -infinity; whatever they are worth at once, windows are looked through row by row as torch does, and the
first of equal values stays (0 and -0 are).
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]

from bnrecal.nbsmt.engines.cpu.kernels import conv_end
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
CHANNELS = LANES * POSITIONS  # are pooled together
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
ARGS = args_dtype(
    "end",  # a record of `conv_end.ARGS`: the source, alpha and beta, bounds, and where the results go
    "channels",  # a multiple of CHANNELS
    "rows",  # of an image
    "columns",
    "out_rows",
    "out_columns",
    "kernel_rows",
    "kernel_columns",
    "stride_rows",
    "stride_columns",
    "padding_rows",
    "padding_columns",
    "bands",  # of an image
    "band",  # output rows of a unit
    "units",
    "pitch",  # bytes of a row in the ring, its border included
    "scratch",
    "scratch_bytes",  # of it for each worker: `conv_end`'s, then the ring, then a row of -infinity
)


@intrinsic
def _fill(_context: Any, target: Any) -> Any:
    """Write CHANNELS times -infinity."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        for i in range(POSITIONS):
            store_at(builder, args[0], splat(-math.inf, _FLOATS), VECTOR_BYTES * i, 4)
        return context.get_dummy_value()

    return types.void(types.uint64), code


@intrinsic
def _lowest(_context: Any) -> Any:
    """Return CHANNELS times -infinity."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        quad = ir.Constant(ir.LiteralStructType([_FLOATS] * POSITIONS), ir.Undefined)
        for i in range(POSITIONS):
            quad = builder.insert_value(quad, splat(-math.inf, _FLOATS), i)
        return quad

    return f32x16x4(), code


@intrinsic
def _larger(_context: Any, quad: Any, address: Any) -> Any:
    """Return the CHANNELS floats at an address where they are larger, else those that are there; none is NaN."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        quad = args[0]
        for i in range(POSITIONS):
            old = builder.extract_value(quad, i)
            new = load_at(builder, args[1], _FLOATS, VECTOR_BYTES * i, 4)
            larger = builder.select(builder.fcmp_ordered("ogt", new, old), new, old)
            quad = builder.insert_value(quad, larger, i)
        return quad

    return f32x16x4(f32x16x4, types.uint64), code


@intrinsic
def _store(_context: Any, quad: Any, target: Any) -> Any:
    """Write CHANNELS floats."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        for i in range(POSITIONS):
            store_at(builder, args[1], builder.extract_value(args[0], i), VECTOR_BYTES * i, 4)
        return context.get_dummy_value()

    return types.void(f32x16x4, types.uint64), code


@intrinsic
def _store_levels(_context: Any, quad: Any, target: Any, inverse: Any, least: Any, most: Any) -> Any:
    """Write the levels of CHANNELS floats, a byte each."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        inverse, least, most = [broadcast(builder, value, _FLOATS) for value in args[2:]]
        for i in range(POSITIONS):
            level = builder.fmul(builder.extract_value(args[0], i), inverse)
            level = conv_end.clamped(builder, level, least, most)
            store_at(builder, args[1], round_to_bytes(builder, level), LANES * i)
        return context.get_dummy_value()

    return types.void(f32x16x4, types.uint64, *(types.float32,) * 3), code


_end_run = conv_end.end_of_run(False, True, False)


@compiled
def _end_row(args: Any, end: Any, source: u64, target: u64, spare: u64) -> Any:
    """End an input row into the ring; return whether a value is not finite."""
    trouble = zero_f32x16x4()
    count = args.columns * args.channels
    i = u64(0)
    while i < count:
        at = u64(4) * i
        some = min(end.lanes, count - i)
        trouble = _end_run(trouble, end, source + at, target + at, u64(0), u64(0), u64(0), some, spare)
        i += end.lanes
    return any_nan(trouble)


@compiled
def _pool_row(args: Any, end: Any, first: np.int64, out: u64, ring: u64, border: u64) -> None:
    """Write an output row, the windows of which begin with input row `first`; `out` values lie before it."""
    step = u64(4) * args.channels
    for x in range(args.out_columns):
        for c in range(u64(0), args.channels, u64(CHANNELS)):
            column = step * x * args.stride_columns + u64(4) * c
            found = _lowest()
            for ky in range(np.int64(args.kernel_rows)):
                row = first + ky
                inside = row >= 0 and row < np.int64(args.rows)
                base = ring + u64(row % np.int64(args.kernel_rows)) * args.pitch if inside else border
                for kx in range(args.kernel_columns):
                    found = _larger(found, base + column + step * kx)
            at = out + x * args.channels + c
            if end.target:
                _store(found, end.target + u64(4) * at)
            if end.levels:
                _store_levels(found, end.levels + at, end.inverse, end.least, end.most)


@compiled
def _work_on_unit(args: Any, end: Any, unit: u64, scratch: u64) -> Any:
    """Make a band of output rows; return whether a value is not finite."""
    ring = scratch + u64(conv_end.SPARE_BYTES)
    border = ring + args.kernel_rows * args.pitch
    image = unit // args.bands
    first = unit % args.bands * args.band
    last = min(first + args.band, args.out_rows)
    row_bytes = u64(4) * args.columns * args.channels
    trouble = False
    made = np.int64(0)  # input rows before it are in the ring, or were
    for y in range(first, last):
        top = np.int64(y * args.stride_rows) - np.int64(args.padding_rows)
        for row in range(max(made, top), min(top + np.int64(args.kernel_rows), np.int64(args.rows))):
            source = end.source + (image * args.rows + u64(row)) * row_bytes
            slot = ring + u64(row % np.int64(args.kernel_rows)) * args.pitch
            if _end_row(args, end, source, slot + u64(4) * args.padding_columns * args.channels, scratch):
                trouble = True
            made = np.int64(row + 1)
        out = (image * args.out_rows + y) * args.out_columns * args.channels
        _pool_row(args, end, top, out, ring, border)
    return trouble


@kernel_entry
def kernel(address: Any) -> None:
    """End and pool a batch, a band of output rows a unit."""
    args = carray(address, 1, ARGS)[0]
    end = carray(v.pointer(args.end), 1, conv_end.ARGS)[0]
    scratch = args.scratch + v.claim(args.address + u64(16)) * args.scratch_bytes
    for at in range(u64(conv_end.SPARE_BYTES), args.scratch_bytes, u64(4 * CHANNELS)):
        _fill(scratch + at)
    trouble = False
    while True:
        unit = v.claim(args.address + u64(8))
        if unit >= args.units:
            break
        if _work_on_unit(args, end, unit, scratch):
            trouble = True
    if trouble:
        end.not_finite = u64(1)


def max_pool_ref(x: Any, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Any:
    """Return float32 (rows, columns, channels) pooled, by plain loops; no value is NaN."""
    rows, columns, channels = x.shape
    out = [(size + 2 * p - k) // s + 1 for size, k, s, p in zip((rows, columns), kernel, stride, padding, strict=True)]
    pooled = np.full((*out, channels), -math.inf, np.float32)
    for y, column, c in np.ndindex(pooled.shape):
        for ky, kx in np.ndindex(kernel):
            row = y * stride[0] - padding[0] + ky
            at = column * stride[1] - padding[1] + kx
            if 0 <= row < rows and 0 <= at < columns and x[row, at, c] > pooled[y, column, c]:
                pooled[y, column, c] = x[row, at, c]
    return pooled
