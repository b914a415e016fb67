"""The list kernel: products of single weights, and everything that comes after the sums.

A unit is a strip of positions and some of the filters. For a block of channels at a time (so many that the first-level
cache holds them), planes of operands are made from planes of levels: pairs of bytes, one of each operand of a kind.
Then the block's entries of every filter are added to the filter's sums. At the end the dense sums join, and the result
goes to its place, channels-last.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.engines.cpu.kernels import operand_select
from bnrecal.nbsmt.engines.cpu.kernels import simd_i32 as s
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import TABLE_BYTES, u64
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compile_kernel, compiled

ARGS = args_dtype(
    "units",  # strips, for one chunk of filters after the other
    "strips",
    "strip",  # positions of a strip, a multiple of 64
    "positions",
    "pixels",  # int32 (positions,): the output pixel, -1: none
    "planes",  # uint8 (channels, pitch), of levels
    "pitch",
    "phase_pitch",  # bytes from one phase of a plane to the next
    "length",  # positions of an operand's plane, a multiple of 64
    "threads",
    "round_up",
    "round_odd",
    "table",
    "blocks",  # BLOCK (block_count,)
    "block_count",
    "sources",  # SOURCE, by block
    "kinds",  # uint32 (2,) for every plane of operands, in the order of the sources: rows of the table
    "entries",  # ENTRY, by block and filter
    "starts",  # uint32: for every block and filter its first entry; one more at the end
    "filters",
    "chunk",  # filters of a unit
    "dense",  # (pixels, filters), or 0: nothing to add
    "dense_floats",  # whether as float32, else int32
    "target",  # (pixels, filters)
    "target_integers",  # whether as int32, else float32
    "base",  # int32 (filters,) to add
    "scale",  # float32 (filters,)
    "bias",  # float32 (filters,)
    "inexact",  # uint64, set to 1 where a dense float32 reaches 2^24: it may have been rounded
    "scratch",
    "scratch_bytes",  # of it for each worker
    "spare_bytes",
    "sums_bytes",
)
BLOCK = np.dtype(
    [
        (name, "u4")
        for name in ("first_source", "end_source", "first_plane", "first_filter", "end_filter", "first_start", "fresh")
    ]
)
# A channel in one phase, the channels of its partners, and the planes of operands made from it.
SOURCE = np.dtype(
    [(name, "u4") for name in ("own", "partner1", "partner2", "partner3", "phase", "first_plane", "end_plane")]
)
# Two weights (or one and a zero): where in the block's planes their first position lies, in bytes, and four int8.
ENTRY = np.dtype([("first", "u4"), ("second", "u4"), ("weights", "u4")])
MANY = 1 << 40  # carray wants a length
# Scratch: `operand_select`'s, then 16 pairs of addresses, then twice the spare bytes, then sums, then planes of
# operands.
PLACES_BYTES = 256
OVER = -(1 << 24)  # the bits from 2^24 up


@compiled
def _make_planes(args: Any, block: Any, sources: Any, kinds: Any, start: u64, scratch: u64, planes: u64) -> None:
    """The operands that a block's entries meet, `length` positions from `start` on: (planes, length, 2) bytes."""
    up, odd, plane_bytes = np.uint8(args.round_up), np.uint8(args.round_odd), u64(2) * args.length
    for index in range(block.first_source, block.end_source):
        source = sources[index]
        base = args.planes + start + u64(source.phase) * args.phase_pitch
        own, one = base + u64(source.own) * args.pitch, base + u64(source.partner1) * args.pitch
        two, three = base + u64(source.partner2) * args.pitch, base + u64(source.partner3) * args.pitch
        first_target = planes + u64(source.first_plane - block.first_plane) * plane_bytes
        for at in range(u64(0), args.length, u64(64)):
            operand_select.write_values(v.load(own + at), up, odd, scratch)
            if args.threads > u64(1):
                u1, u2, u3 = v.nonzero(v.load(one + at)), v.nonzero(v.load(two + at)), v.nonzero(v.load(three + at))
                operand_select.write_masks(u1, u2, u3, args.threads, scratch)
            target = first_target + u64(2) * at
            for plane in range(source.first_plane, source.end_plane):
                first = operand_select.select(args.table + u64(TABLE_BYTES) * u64(kinds[2 * plane]), scratch)
                second = operand_select.select(args.table + u64(TABLE_BYTES) * u64(kinds[2 * plane + 1]), scratch)
                v.store_zipped(target, first, second)
                target += plane_bytes


@compiled
def _add_entries(
    args: Any, block: Any, starts: Any, entries: Any, first_filter: u64, end_filter: u64, planes: u64, sums: u64
) -> None:
    """A block's entries to the sums (filters, strip) of filters first_filter..end_filter-1."""
    low, high = max(u64(block.first_filter), first_filter), min(u64(block.end_filter), end_filter)
    at = u64(block.first_start) + (low - u64(block.first_filter))
    target, fresh = sums + (low - first_filter) * args.strip * u64(4), block.fresh != 0
    for _ in range(low, high):
        first, end = starts[at], starts[at + u64(1)]
        at += u64(1)
        base = planes
        for _strip in range(u64(0), args.strip, u64(64)):
            if fresh or first < end:
                total = s.zero_i32x64() if fresh else s.load_i32x64(target)
                for index in range(first, end):
                    entry = entries[index]
                    total = s.add_products(total, base + u64(entry.first), base + u64(entry.second), entry.weights)
                s.store_i32x64(target, total)
            target += u64(s.I32X64_BYTES)
            base += u64(128)


@compiled
def _locate(args: Any, pixels: Any, first: u64, places: u64, spare: u64) -> None:
    """Addresses of the dense sums and the results of 16 positions; where there are none, zeros and waste."""
    row = u64(4) * args.filters
    for i in range(u64(16)):
        pixel = pixels[first + i] if first + i < args.positions else np.int32(-1)
        place, inside = places + u64(16) * i, pixel >= 0
        v.store_u64(place, args.dense + u64(pixel) * row if inside and args.dense else spare)
        v.store_u64(place + u64(8), args.target + u64(pixel) * row if inside else spare + args.spare_bytes)


@compiled
def _finish(
    args: Any, pixels: Any, start: u64, first_filter: u64, end_filter: u64, places: u64, spare: u64, sums: u64
) -> None:
    """Add the dense sums of a strip, scale, and write."""
    bits, floats, pitch = s.zero_i32x8(), args.dense_floats != u64(0), u64(4) * args.strip
    for at in range(u64(0), args.strip, u64(16)):
        _locate(args, pixels, start + at, places, spare)
        f = first_filter
        while f < end_filter:
            f = min(f, end_filter - u64(8))  # once more over some of the last eight
            own, o = sums + (f - first_filter) * pitch + u64(4) * at, u64(4) * f
            base, scale, bias = args.base + o, args.scale + o, args.bias + o
            if args.target_integers:
                bits = s.finish_integers(bits, own, pitch, places, o, base, scale, bias, floats)
            else:
                bits = s.finish_scaled(bits, own, pitch, places, o, base, scale, bias, floats)
            f += u64(8)
    if floats and s.any_bit(bits, np.int32(OVER)):
        v.store_u64(args.inexact, u64(1))


@compiled
def _clear(first: u64, size: u64) -> None:
    """Zeros, `size` a multiple of 256 bytes."""
    for at in range(u64(0), size, u64(s.I32X64_BYTES)):
        s.store_i32x64(first + at, s.zero_i32x64())


@compiled
def _work_on_unit(args: Any, unit: u64, scratch: u64) -> None:
    blocks, sources = carray(v.pointer(args.blocks), MANY, BLOCK), carray(v.pointer(args.sources), MANY, SOURCE)
    entries, kinds = carray(v.pointer(args.entries), MANY, ENTRY), carray(v.pointer(args.kinds), MANY, np.uint32)
    starts, pixels = carray(v.pointer(args.starts), MANY, np.uint32), carray(v.pointer(args.pixels), MANY, np.int32)
    places = scratch + u64(operand_select.SCRATCH_BYTES)
    spare = places + u64(PLACES_BYTES)
    sums = spare + args.spare_bytes + args.spare_bytes
    planes = sums + args.sums_bytes
    start = unit % args.strips * args.strip
    first_filter = unit // args.strips * args.chunk
    end_filter = min(first_filter + args.chunk, args.filters)
    if args.block_count == u64(0) or blocks[0].fresh == 0:
        _clear(sums, args.sums_bytes)
    for index in range(args.block_count):
        block = blocks[index]
        if u64(block.first_filter) < end_filter and u64(block.end_filter) > first_filter:
            _make_planes(args, block, sources, kinds, start, scratch, planes)
            _add_entries(args, block, starts, entries, first_filter, end_filter, planes, sums)
    _finish(args, pixels, start, first_filter, end_filter, places, spare, sums)


def _make(sources: str) -> Any:
    def sparse_units(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        args = carray(address, 1, ARGS)[0]
        scratch = args.scratch + v.claim(args.address + u64(16)) * args.scratch_bytes
        operand_select.clear(scratch)
        _clear(scratch + u64(operand_select.SCRATCH_BYTES + PLACES_BYTES), args.spare_bytes)
        while True:
            unit = v.claim(args.address + u64(8))
            if unit >= args.units:
                return
            _work_on_unit(args, unit, scratch)

    return sparse_units


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
