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

from bnrecal.nbsmt.cpu import sending
from bnrecal.nbsmt.cpu import sums as s
from bnrecal.nbsmt.cpu import vectors as v
from bnrecal.nbsmt.cpu.jobs import compile_kernel, compiled, fields
from bnrecal.nbsmt.cpu.sending import TABLE_BYTES, Word

JOB = fields(
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
# Scratch: `sending`'s, then 16 pairs of addresses, then twice the spare bytes, then sums, then planes of operands.
PLACES_BYTES = 256
OVER = -(1 << 24)  # the bits from 2^24 up


@compiled
def _make_planes(job: Any, block: Any, sources: Any, kinds: Any, start: Word, scratch: Word, planes: Word) -> None:
    """The operands that a block's entries meet, `length` positions from `start` on: (planes, length, 2) bytes."""
    up, odd, plane_bytes = np.uint8(job.round_up), np.uint8(job.round_odd), Word(2) * job.length
    for index in range(block.first_source, block.end_source):
        source = sources[index]
        base = job.planes + start + Word(source.phase) * job.phase_pitch
        own, one = base + Word(source.own) * job.pitch, base + Word(source.partner1) * job.pitch
        two, three = base + Word(source.partner2) * job.pitch, base + Word(source.partner3) * job.pitch
        first_target = planes + Word(source.first_plane - block.first_plane) * plane_bytes
        for at in range(Word(0), job.length, Word(64)):
            sending.write_values(v.load(own + at), up, odd, scratch)
            if job.threads > Word(1):
                u1, u2, u3 = v.nonzero(v.load(one + at)), v.nonzero(v.load(two + at)), v.nonzero(v.load(three + at))
                sending.write_masks(u1, u2, u3, job.threads, scratch)
            target = first_target + Word(2) * at
            for plane in range(source.first_plane, source.end_plane):
                first = sending.sent(job.table + Word(TABLE_BYTES) * Word(kinds[2 * plane]), scratch)
                second = sending.sent(job.table + Word(TABLE_BYTES) * Word(kinds[2 * plane + 1]), scratch)
                v.store_zipped(target, first, second)
                target += plane_bytes


@compiled
def _add_entries(
    job: Any, block: Any, starts: Any, entries: Any, first_filter: Word, end_filter: Word, planes: Word, sums: Word
) -> None:
    """A block's entries to the sums (filters, strip) of filters first_filter..end_filter-1."""
    low, high = max(Word(block.first_filter), first_filter), min(Word(block.end_filter), end_filter)
    at = Word(block.first_start) + (low - Word(block.first_filter))
    target, fresh = sums + (low - first_filter) * job.strip * Word(4), block.fresh != 0
    for _ in range(low, high):
        first, end = starts[at], starts[at + Word(1)]
        at += Word(1)
        base = planes
        for _strip in range(Word(0), job.strip, Word(64)):
            if fresh or first < end:
                total = s.no_sums() if fresh else s.load_sums(target)
                for index in range(first, end):
                    entry = entries[index]
                    total = s.add_products(total, base + Word(entry.first), base + Word(entry.second), entry.weights)
                s.store_sums(target, total)
            target += Word(s.SUMS_BYTES)
            base += Word(128)


@compiled
def _locate(job: Any, pixels: Any, first: Word, places: Word, spare: Word) -> None:
    """Addresses of the dense sums and the results of 16 positions; where there are none, zeros and waste."""
    row = Word(4) * job.filters
    for i in range(Word(16)):
        pixel = pixels[first + i] if first + i < job.positions else np.int32(-1)
        place, inside = places + Word(16) * i, pixel >= 0
        v.put_uint64(place, job.dense + Word(pixel) * row if inside and job.dense else spare)
        v.put_uint64(place + Word(8), job.target + Word(pixel) * row if inside else spare + job.spare_bytes)


@compiled
def _finish(
    job: Any, pixels: Any, start: Word, first_filter: Word, end_filter: Word, places: Word, spare: Word, sums: Word
) -> None:
    """Add the dense sums of a strip, scale, and write."""
    bits, floats, pitch = s.no_eight(), job.dense_floats != Word(0), Word(4) * job.strip
    for at in range(Word(0), job.strip, Word(16)):
        _locate(job, pixels, start + at, places, spare)
        f = first_filter
        while f < end_filter:
            f = min(f, end_filter - Word(8))  # once more over some of the last eight
            own, o = sums + (f - first_filter) * pitch + Word(4) * at, Word(4) * f
            base, scale, bias = job.base + o, job.scale + o, job.bias + o
            if job.target_integers:
                bits = s.finish_integers(bits, own, pitch, places, o, base, scale, bias, floats)
            else:
                bits = s.finish_scaled(bits, own, pitch, places, o, base, scale, bias, floats)
            f += Word(8)
    if floats and s.any_bit(bits, np.int32(OVER)):
        v.put_uint64(job.inexact, Word(1))


@compiled
def _clear(first: Word, size: Word) -> None:
    """Zeros, `size` a multiple of 256 bytes."""
    for at in range(Word(0), size, Word(s.SUMS_BYTES)):
        s.store_sums(first + at, s.no_sums())


@compiled
def _work_on_unit(job: Any, unit: Word, scratch: Word) -> None:
    blocks, sources = carray(v.pointer(job.blocks), MANY, BLOCK), carray(v.pointer(job.sources), MANY, SOURCE)
    entries, kinds = carray(v.pointer(job.entries), MANY, ENTRY), carray(v.pointer(job.kinds), MANY, np.uint32)
    starts, pixels = carray(v.pointer(job.starts), MANY, np.uint32), carray(v.pointer(job.pixels), MANY, np.int32)
    places = scratch + Word(sending.SCRATCH_BYTES)
    spare = places + Word(PLACES_BYTES)
    sums = spare + job.spare_bytes + job.spare_bytes
    planes = sums + job.sums_bytes
    start = unit % job.strips * job.strip
    first_filter = unit // job.strips * job.chunk
    end_filter = min(first_filter + job.chunk, job.filters)
    if job.block_count == Word(0) or blocks[0].fresh == 0:
        _clear(sums, job.sums_bytes)
    for index in range(job.block_count):
        block = blocks[index]
        if Word(block.first_filter) < end_filter and Word(block.end_filter) > first_filter:
            _make_planes(job, block, sources, kinds, start, scratch, planes)
            _add_entries(job, block, starts, entries, first_filter, end_filter, planes, sums)
    _finish(job, pixels, start, first_filter, end_filter, places, spare, sums)


def _make(sources: str) -> Any:
    def list_units(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        job = carray(address, 1, JOB)[0]
        scratch = job.scratch + v.claim(job.address + Word(16)) * job.scratch_bytes
        sending.clear(scratch)
        _clear(scratch + Word(sending.SCRATCH_BYTES + PLACES_BYTES), job.spare_bytes)
        while True:
            unit = v.claim(job.address + Word(8))
            if unit >= job.units:
                return
            _work_on_unit(job, unit, scratch)

    return list_units


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
