"""The sparse kernel: products of single weights, and everything that comes after the sums.

A unit is a strip of positions and some of the filters. For a block of channels at a time (so many that the first-level
cache holds them), planes of operands are made from planes of levels: pairs of bytes, one of each operand of a kind.
Then the block's entries of every filter are added to the filter's sums. At the end the dense sums join, and the result
goes to its place, channels-last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.decompose.operands import Operand
from bnrecal.nbsmt.engines.cpu.kernels import conv_end, operand_select, slice_operands
from bnrecal.nbsmt.engines.cpu.kernels import simd_i32 as s
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.instructions import LANES
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import TABLE_BYTES, operand_select_ref
from bnrecal.nbsmt.engines.cpu.kernels.runtime import MANY, args_dtype, compiled, kernel_entry, u64
from bnrecal.nbsmt.engines.cpu.kernels.simd_f32 import any_nan, zero_f32x16x4

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
    "plain",  # whether every plane holds the levels as they are, each beside a zero
    "slice_pitch",  # bytes from one channel of a slice to the next
    "table",
    "blocks",  # BLOCK (block_count,)
    "block_count",
    "sets",  # SET, by block
    "sources",  # SOURCE, by block
    "kinds",  # uint32 (2,) for every plane of operands, in the order of the sources: rows of the table
    "entries",  # ENTRY, by block and filter
    "starts",  # uint32: for every block and filter its first entry; one more at the end
    "filters",
    "chunk",  # filters of a unit
    "dense",  # (pixels, filters), or 0: nothing to add
    "dense_floats",  # whether as float32, else int32
    "target",  # (pixels, filters), where there is no end
    "target_integers",  # whether as int32, else float32
    "base",  # int32 (filters,) to add
    "scale",  # float32 (filters,)
    "bias",  # float32 (filters,)
    "inexact",  # made 1 where a dense float32 reaches 2^24: it may have been rounded
    "end",  # a record of `conv_end.ARGS`: what the scaled sums go through, and where the results go; 0: none
    "scratch",
    "scratch_bytes",  # of it for each worker
    "spare_bytes",
    "sums_bytes",
)
# Some channels of one group, so few that their planes of operands stay in a cache.
BLOCK = np.dtype(
    [
        ("first_set", "u4"),  # its sets, first_set..end_set-1
        ("end_set", "u4"),
        ("first_source", "u4"),  # its sources, first_source..end_source-1
        ("end_source", "u4"),
        ("first_plane", "u4"),  # its first plane of operands, counted over all blocks
        ("first_filter", "u4"),  # the filters of its group
        ("end_filter", "u4"),
        ("first_start", "u4"),  # where in `starts` its first filter is
        ("fresh", "u4"),  # 1: the first of all blocks, whose sums begin at zero
    ]
)
# A channel in one phase, the channels of its partners, and the planes of operands made from it.
SOURCE = np.dtype(
    [
        ("own", "u4"),
        ("partner1", "u4"),
        ("partner2", "u4"),
        ("partner3", "u4"),
        ("phase", "u4"),
        ("first_plane", "u4"),
        ("end_plane", "u4"),
    ]
)
# A slice in one phase: its first channel, which of `slice_operands.SETS` it is, and the first plane made from it.
SET = np.dtype([("own", "u4"), ("phase", "u4"), ("which", "u4"), ("first_plane", "u4")])
# Two weights (or one and a zero): where in the block's planes their first position lies, in bytes, and four int8.
ENTRY = np.dtype([("first", "u4"), ("second", "u4"), ("weights", "u4")])
TOGETHER = 2 * LANES  # positions that are finished together
TILE_FILTERS = 128  # whose scaled sums are ended together, while the first-level cache holds them
TILE_ROW = 4 * TILE_FILTERS
# Scratch: `operand_select`'s, then pairs of addresses, then a tile and the end's own scratch, then twice the spare
# bytes, then sums, then planes of operands.
PLACES_BYTES = 16 * TOGETHER
TILE_BYTES = TILE_ROW * TOGETHER + conv_end.SPARE_BYTES
OVER = -(1 << 24)  # the bits from 2^24 up


@compiled
def _make_sets(args: Any, block: Any, sets: Any, start: u64, planes: u64) -> None:
    """Write the planes of a block's slices, `length` positions from `start` on: (planes, length, 2) bytes."""
    up = np.uint8(args.round_up)
    odd = np.uint8(args.round_odd)
    pitch = args.slice_pitch
    plane_bytes = u64(2) * args.length
    for index in range(block.first_set, block.end_set):
        own = sets[index]
        levels = args.planes + start + u64(own.phase) * args.phase_pitch + u64(own.own) * args.pitch
        target = planes + u64(own.first_plane - block.first_plane) * plane_bytes
        for at in range(u64(0), args.length, u64(64)):
            if own.which == 0:
                slice_operands.write_pairs(levels + at, pitch, target + u64(2) * at, plane_bytes, up, odd)
            elif own.which == 1:
                slice_operands.write_singles(levels + at, pitch, target + u64(2) * at, plane_bytes, up, odd)
            else:
                slice_operands.write_full(levels + at, pitch, target + u64(2) * at, plane_bytes, up, odd)


@compiled
def _make_plain_planes(args: Any, block: Any, sources: Any, start: u64, planes: u64) -> None:
    """Write the levels of a block's channels, each beside a zero: what `_make_planes` would, without its choices."""
    plane_bytes = u64(2) * args.length
    for index in range(block.first_source, block.end_source):
        source = sources[index]
        own = args.planes + start + u64(source.phase) * args.phase_pitch + u64(source.own) * args.pitch
        target = planes + u64(source.first_plane - block.first_plane) * plane_bytes
        for at in range(u64(0), args.length, u64(64)):
            a = v.load(own + at)
            v.store_zipped(target + u64(2) * at, a, a ^ a)


@compiled
def _make_planes(args: Any, block: Any, sources: Any, kinds: Any, start: u64, scratch: u64, planes: u64) -> None:
    """Write the operands of a block's sources, of any policy, as `_make_sets` does of its slices."""
    up = np.uint8(args.round_up)
    odd = np.uint8(args.round_odd)
    plane_bytes = u64(2) * args.length
    for index in range(block.first_source, block.end_source):
        source = sources[index]
        base = args.planes + start + u64(source.phase) * args.phase_pitch
        own = base + u64(source.own) * args.pitch
        one = base + u64(source.partner1) * args.pitch
        two = base + u64(source.partner2) * args.pitch
        three = base + u64(source.partner3) * args.pitch
        first_target = planes + u64(source.first_plane - block.first_plane) * plane_bytes
        for at in range(u64(0), args.length, u64(64)):
            operand_select.write_values(v.load(own + at), up, odd, scratch)
            if args.threads > u64(1):
                u1 = v.nonzero(v.load(one + at))
                u2 = v.nonzero(v.load(two + at))
                u3 = v.nonzero(v.load(three + at))
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
    """Add a block's entries to the sums (filters, strip) of filters first_filter..end_filter-1."""
    low = max(u64(block.first_filter), first_filter)
    high = min(u64(block.end_filter), end_filter)
    at = u64(block.first_start) + (low - u64(block.first_filter))
    target = sums + (low - first_filter) * args.strip * u64(4)
    fresh = block.fresh != 0
    for _ in range(low, high):
        first = starts[at]
        end = starts[at + u64(1)]
        at += u64(1)
        base = planes
        for _strip in range(u64(0), args.strip, u64(s.POSITIONS)):
            if fresh or first < end:
                total = s.zero_sums() if fresh else s.load_sums(target)
                for index in range(first, end):
                    entry = entries[index]
                    total = s.add_products(total, base + u64(entry.first), base + u64(entry.second), entry.weights)
                s.store_sums(target, total)
            target += u64(s.POSITIONS_BYTES)
            base += u64(2 * s.POSITIONS)


@compiled
def _locate(args: Any, pixels: Any, first: u64, first_filter: u64, places: u64, tile: u64, spare: u64) -> None:
    """Write addresses of the dense sums and the results of some positions; where there are none, of zeros and waste."""
    row = u64(4) * args.filters
    for i in range(u64(TOGETHER)):
        pixel = pixels[first + i] if first + i < args.positions else np.int32(-1)
        place = places + u64(16) * i
        inside = pixel >= 0
        v.store_u64(place, args.dense + u64(pixel) * row if inside and args.dense else spare)
        if args.end:
            v.store_u64(place + u64(8), tile + u64(TILE_ROW) * i - u64(4) * first_filter)
        else:
            v.store_u64(place + u64(8), args.target + u64(pixel) * row if inside else spare + args.spare_bytes)


def _end_positions(end_run: Any) -> Any:
    """Make the function that ends a tile: some filters, the scaled sums of which stand there position by position."""

    @compiled
    def end_positions(
        end: Any, pixels: u64, positions: u64, filters: u64, first_filter: u64, end_filter: u64, tile: u64, spare: u64
    ) -> Any:
        pixel_of = carray(v.pointer(pixels), MANY, np.int32)
        trouble = zero_f32x16x4()
        for i in range(positions):
            pixel = pixel_of[i]
            if pixel >= 0:
                first = u64(pixel) * filters + first_filter
                source = tile + u64(TILE_ROW) * i
                target = end.target + u64(4) * first
                added = end.residual + u64(4) * first
                made = end.levels + first
                count = end_filter - first_filter
                trouble = end_run(trouble, end, source, target, made, added, first_filter, count, spare)
        return any_nan(trouble)

    return end_positions


_end_tile = conv_end.by_form(_end_positions)


@compiled
def _finish(
    args: Any, pixels: Any, start: u64, first_filter: u64, end_filter: u64, places: u64, spare: u64, sums: u64
) -> None:
    """Add the dense sums of a strip, scale, end where there is an end, and write."""
    bits = s.zero_filters()
    floats = args.dense_floats != u64(0)
    integers = args.target_integers != u64(0)
    pitch = u64(4) * args.strip
    tile = places + u64(PLACES_BYTES)
    trouble = False
    for at in range(u64(0), args.strip, u64(TOGETHER)):
        low = first_filter
        while low < end_filter:
            high = min(low + u64(TILE_FILTERS), end_filter)
            low = min(low, end_filter - u64(LANES))
            _locate(args, pixels, start + at, low, places, tile, spare)
            f = low
            while f < high:
                f = min(f, high - u64(LANES))  # once more over some of the last ones
                own = sums + (f - first_filter) * pitch + u64(4) * at
                o = u64(4) * f
                base = args.base + o
                scale = args.scale + o
                bias = args.bias + o
                bits = s.finish(bits, own, pitch, places, o, base, scale, bias, floats, integers)
                f += u64(LANES)
            if args.end and start + at < args.positions:
                end = carray(v.pointer(args.end), 1, conv_end.ARGS)[0]
                count = min(u64(TOGETHER), args.positions - start - at)
                own_pixels = args.pixels + u64(4) * (start + at)
                own_spare = tile + u64(TILE_ROW * TOGETHER)
                if _end_tile(end, own_pixels, count, args.filters, low, high, tile, own_spare):
                    trouble = True
            low = high
    if floats and s.any_bit(bits, np.int32(OVER)):
        args.inexact = u64(1)
    if trouble:
        end = carray(v.pointer(args.end), 1, conv_end.ARGS)[0]
        end.not_finite = u64(1)


@compiled
def _work_on_unit(args: Any, unit: u64, scratch: u64) -> None:
    """Make one strip of some filters, from planes of levels to results."""
    blocks = carray(v.pointer(args.blocks), MANY, BLOCK)
    sets = carray(v.pointer(args.sets), MANY, SET)
    sources = carray(v.pointer(args.sources), MANY, SOURCE)
    entries = carray(v.pointer(args.entries), MANY, ENTRY)
    kinds = carray(v.pointer(args.kinds), MANY, np.uint32)
    starts = carray(v.pointer(args.starts), MANY, np.uint32)
    pixels = carray(v.pointer(args.pixels), MANY, np.int32)
    places = scratch + u64(operand_select.SCRATCH_BYTES)
    spare = places + u64(PLACES_BYTES + TILE_BYTES)
    sums = spare + args.spare_bytes + args.spare_bytes
    planes = sums + args.sums_bytes
    start = unit % args.strips * args.strip
    first_filter = unit // args.strips * args.chunk
    end_filter = min(first_filter + args.chunk, args.filters)
    if args.block_count == u64(0) or blocks[0].fresh == 0:
        v.clear(sums, args.sums_bytes)
    for index in range(args.block_count):
        block = blocks[index]
        if u64(block.first_filter) < end_filter and u64(block.end_filter) > first_filter:
            _make_sets(args, block, sets, start, planes)
            if args.plain:
                _make_plain_planes(args, block, sources, start, planes)
            else:
                _make_planes(args, block, sources, kinds, start, scratch, planes)
            _add_entries(args, block, starts, entries, first_filter, end_filter, planes, sums)
    _finish(args, pixels, start, first_filter, end_filter, places, spare, sums)


@kernel_entry
def kernel(address: Any) -> None:
    """Add up a batch, a strip of positions and some of the filters a unit."""
    args = carray(address, 1, ARGS)[0]
    scratch = args.scratch + v.claim(args.address + u64(16)) * args.scratch_bytes
    operand_select.clear(scratch)
    v.clear(scratch + u64(operand_select.SCRATCH_BYTES + PLACES_BYTES + TILE_BYTES), args.spare_bytes)
    while True:
        unit = v.claim(args.address + u64(8))
        if unit >= args.units:
            return
        _work_on_unit(args, unit, scratch)


@dataclass(frozen=True)
class Records:
    """The arrays of a kernel's args that `sparse_ref` reads, and what stands for its table."""

    blocks: Any
    sets: Any
    sources: Any
    kinds: Any
    entries: Any
    starts: Any
    operands: Sequence[Operand]  # two of each kind, in the order of `kinds`
    part: int  # channels from one of a slice to the next


def sparse_ref(
    planes: Any, phase_pitch: int, start: int, shape: tuple[int, int, int], records: Records, half_even: bool
) -> Any:
    """Return int32 (filters, strip), the sums of one strip before the dense ones join, by plain loops over the records.

    Args:
        planes: uint8 (channels, pitch), of levels.
        start: the strip's first position.
        shape: strip, length (positions of an operand's plane), filters.
    """
    strip, length, filters = shape
    sums = np.zeros((filters, strip), np.int32)
    for block in records.blocks:
        made = _operands_ref(planes, phase_pitch, start, length, block, records, half_even)
        # An entry's address counts bytes of these planes.
        for f in range(block["first_filter"], block["end_filter"]):
            at = block["first_start"] + f - block["first_filter"]
            for entry in records.entries[records.starts[at] : records.starts[at + 1]]:
                w = np.array([entry["weights"]], np.uint32).view(np.int8).tolist()
                for p in range(strip):
                    x0, y0 = made[entry["first"] + 2 * p : entry["first"] + 2 * p + 2]
                    x1, y1 = made[entry["second"] + 2 * p : entry["second"] + 2 * p + 2]
                    sums[f, p] += x0 * w[0] + y0 * w[1] + x1 * w[2] + y1 * w[3]
    return sums


def _operands_ref(
    planes: Any, phase_pitch: int, start: int, length: int, block: Any, records: Records, half_even: bool
) -> list[int]:
    """Return a block's planes of operands, pairs of bytes, (planes, length, 2) in a row."""
    made: list[int] = []
    for own in records.sets[block["first_set"] : block["end_set"]]:
        base = start + int(own["phase"]) * phase_pitch
        channels = int(own["own"]) + records.part * np.arange(slice_operands.CHANNELS)
        levels = planes[channels, base : base + length]
        made += (
            slice_operands.slice_operands_ref(slice_operands.SETS[own["which"]], levels, half_even).flatten().tolist()
        )
    for source in records.sources[block["first_source"] : block["end_source"]]:
        base = start + int(source["phase"]) * phase_pitch
        for pair in records.kinds[source["first_plane"] : source["end_plane"]]:
            for position in range(base, base + length):
                partners = [int(planes[source[f"partner{r}"], position]) for r in (1, 2, 3)]
                a = int(planes[source["own"], position])
                made += [operand_select_ref(records.operands[kind], a, partners, half_even) for kind in pair]
    return made
