"""The depthwise kernel: float32 activations to levels, their sums, scale and bias, in one pass over memory.

Depthwise layers have few products a value, so that passes over memory are what they cost. A unit is a band of output
rows of one image and some of the channels, 16 at a time (a *block*). Rows of levels are made once, as float32, into a
ring of as many rows as the kernel spans, which stays in the second-level cache. Products and sums are float32: integers
below 2^24, exact.
"""

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.engines.cpu.kernels import simd_f32 as f
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.quantize import quantize_ref
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compiled, kernel_entry, u64
from bnrecal.nbsmt.geometry import Geometry

VECTOR = f.VECTOR_BYTES
POSITIONS = f.POSITIONS
ARGS = args_dtype(
    "units",  # images * bands * chunks, in this order
    "bands",
    "band",  # output rows of a unit
    "chunks",
    "chunk",  # blocks of a unit
    "blocks",
    "source",  # float32 (images, rows, columns, channels), or its levels
    "source_bytes",  # of a value: 4, or 1 for levels
    "signed",  # 1 for levels that are int8
    "rows",
    "columns",
    "channels",  # at least 16
    "target",  # float32 (images, out_rows, out_columns, channels)
    "out_rows",
    "out_columns",
    "stride_rows",
    "stride_columns",
    "padding_rows",
    "padding_columns",
    "taps",
    "tap_rows",  # uint64 (taps,): rows below an output's first
    "tap_bytes",  # uint64 (taps,): bytes right of it
    "span",  # rows of the ring
    "pitch",  # bytes of a block's row in the ring, border included
    "weights",  # float32 (blocks, taps, 16)
    "scale",  # float32 (channels,)
    "bias",  # float32 (channels,)
    "scratch",
    "scratch_bytes",  # of it for each worker: four vectors, addresses of taps, the ring, a row of zeros
    "places_bytes",
    floats=("inverse", "lowest", "highest"),
)


@compiled
def _make_levels(args: Any, source: u64, slot: u64, first: u64, end: u64) -> None:
    """Write one row of the input to blocks first..end-1 of a row of the ring."""
    inverse = args.inverse
    lowest = args.lowest
    highest = args.highest
    pitch = args.pitch
    last = args.channels - u64(f.LANES)
    place = slot + u64(VECTOR) * args.padding_columns
    for _ in range(args.columns):
        target = place
        for block in range(first, end):
            own = source + args.source_bytes * min(u64(f.LANES) * block, last)
            if args.source_bytes == u64(4):
                f.store_levels(target, own, inverse, lowest, highest)
            else:
                f.widen_levels(target, own, args.signed)
            target += pitch
        place += u64(VECTOR)
        source += args.source_bytes * args.channels


@compiled
def _locate_taps(args: Any, row: u64, ring: u64, places: Any) -> None:
    """Write where the taps of the first output of a row lie; `row` counts the input's border too."""
    slot_bytes = args.chunk * args.pitch
    tap_rows = carray(v.pointer(args.tap_rows), int(args.taps), np.uint64)
    tap_bytes = carray(v.pointer(args.tap_bytes), int(args.taps), np.uint64)
    for tap in range(args.taps):
        at = row + tap_rows[tap]
        inside = at >= args.padding_rows and at < args.padding_rows + args.rows
        slot = at % args.span if inside else args.span  # behind the ring there is a row of zeros
        places[tap] = ring + slot * slot_bytes + tap_bytes[tap]


@compiled
def _convolve_row(args: Any, places: Any, target: u64, first: u64, end: u64, spare: u64) -> None:
    """Write one row of outputs of blocks first..end-1."""
    step = u64(VECTOR) * args.stride_columns
    pitch = u64(4) * args.channels
    for block in range(first, end):
        # The last block goes once more over some channels of the one before.
        own = u64(4) * min(u64(f.LANES) * block, args.channels - u64(f.LANES))
        scale = args.scale + own
        bias = args.bias + own
        out = target + own
        weights = args.weights + u64(VECTOR) * args.taps * block
        x = u64(0)
        while x < args.out_columns:
            if args.out_columns >= u64(POSITIONS):
                x = min(x, args.out_columns - u64(POSITIONS))  # once more over some of the last four
            at = (block - first) * args.pitch + x * step
            quad = f.zero_f32x16x4()
            for tap in range(args.taps):
                quad = f.add_tap(quad, places[tap] + at, step, weights + u64(VECTOR) * tap)
            if args.out_columns >= u64(POSITIONS):
                f.store_scaled(quad, out + x * pitch, pitch, scale, bias)
            else:
                f.store_scaled(quad, spare, u64(VECTOR), scale, bias)
                for i in range(args.out_columns):
                    v.copy(out + i * pitch, spare + u64(VECTOR) * i, u64(VECTOR))
            x += u64(POSITIONS)


@compiled
def _work_on_unit(args: Any, unit: u64, scratch: u64) -> None:
    first = unit % args.chunks * args.chunk
    end = min(first + args.chunk, args.blocks)
    image = unit // args.chunks // args.bands
    band = unit // args.chunks % args.bands
    places = carray(v.pointer(scratch + u64(VECTOR * POSITIONS)), int(args.taps), np.uint64)
    ring = scratch + u64(VECTOR * POSITIONS) + args.places_bytes
    row_bytes = args.source_bytes * args.columns * args.channels
    out_bytes = u64(4) * args.out_columns * args.channels
    made = u64(0)  # rows of the input, its border counted, up to which levels are made or not needed
    for y in range(band * args.band, min((band + u64(1)) * args.band, args.out_rows)):
        top = y * args.stride_rows
        for row in range(max(made, top, args.padding_rows), min(top + args.span, args.padding_rows + args.rows)):
            source = args.source + (image * args.rows + (row - args.padding_rows)) * row_bytes
            _make_levels(args, source, ring + row % args.span * (args.chunk * args.pitch), first, end)
        made = top + args.span
        _locate_taps(args, top, ring, places)
        _convolve_row(args, places, args.target + (image * args.out_rows + y) * out_bytes, first, end, scratch)


@kernel_entry
def kernel(address: Any) -> None:
    """Convolve a batch, a band of rows and some channels a unit."""
    args = carray(address, 1, ARGS)[0]
    scratch = args.scratch + v.claim(args.address + u64(16)) * args.scratch_bytes
    v.clear(scratch, args.scratch_bytes)  # the borders are zeros
    while True:
        unit = v.claim(args.address + u64(8))
        if unit >= args.units:
            return
        _work_on_unit(args, unit, scratch)


def depthwise_ref(x: Any, inverse: float, signed: bool, weights: Any, g: Geometry, scale: Any, bias: Any) -> Any:
    """Return float32 (C, H', W'), what the kernel makes of one image, by plain loops.

    Args:
        x: float32 (C, H, W).
        weights: int8 (C, kh, kw).
        scale, bias: float32 (C,).
    """
    channels, rows, columns = x.shape
    lowest, highest = (-128, 127) if signed else (0, 255)
    offset = 128 if signed else 0  # the levels travel as bytes
    levels = quantize_ref(x, inverse, lowest, highest, offset).astype(int) - offset
    high, wide = g.output_size((rows, columns), weights.shape[1:])
    y = np.zeros((channels, high, wide), np.float32)
    for c, i, j in np.ndindex(y.shape):
        total = 0
        for p, q in np.ndindex(weights.shape[1:]):
            row = i * g.stride[0] + p * g.dilation[0] - g.padding[0]
            column = j * g.stride[1] + q * g.dilation[1] - g.padding[1]
            if 0 <= row < rows and 0 <= column < columns:
                total += int(levels[c, row, column]) * int(weights[c, p, q])
        y[c, i, j] = np.float32(total) * scale[c] + bias[c]
    return y
