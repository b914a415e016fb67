"""The depthwise kernel: float32 activations to levels, their sums, scale and bias, in one pass over memory.

Depthwise layers have few products a value, so that passes over memory are what they cost. A unit is a band of output
rows of one image and some of the channels, 16 at a time (a *block*). Rows of levels are made once, as float32, into a
ring of as many rows as the kernel spans, which stays in the second-level cache. Products and sums are float32: integers
below 2^24, exact.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.cpu import floats as f
from bnrecal.nbsmt.cpu import sums as s
from bnrecal.nbsmt.cpu import vectors as v
from bnrecal.nbsmt.cpu.jobs import compile_kernel, compiled, fields
from bnrecal.nbsmt.cpu.sending import Word

VECTOR, POSITIONS = f.VECTOR_BYTES, f.POSITIONS
JOB = fields(
    "units",  # images * bands * chunks, in this order
    "bands",
    "band",  # output rows of a unit
    "chunks",
    "chunk",  # blocks of a unit
    "blocks",
    "source",  # float32 (images, rows, columns, channels)
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
def _make_levels(job: Any, source: Word, slot: Word, first: Word, end: Word) -> None:
    """One row of the input to blocks first..end-1 of a row of the ring."""
    inverse, lowest, highest, pitch = job.inverse, job.lowest, job.highest, job.pitch
    last = Word(4) * (job.channels - Word(f.LANES))
    place = slot + Word(VECTOR) * job.padding_columns
    for _ in range(job.columns):
        target = place
        for block in range(first, end):
            f.store_levels(target, source + min(Word(VECTOR) * block, last), inverse, lowest, highest)
            target += pitch
        place += Word(VECTOR)
        source += Word(4) * job.channels


@compiled
def _locate_taps(job: Any, row: Word, ring: Word, places: Any) -> None:
    """Where the taps of the first output of a row lie, the input's row counted with its border."""
    slot_bytes = job.chunk * job.pitch
    tap_rows = carray(v.pointer(job.tap_rows), int(job.taps), np.uint64)
    tap_bytes = carray(v.pointer(job.tap_bytes), int(job.taps), np.uint64)
    for tap in range(job.taps):
        at = row + tap_rows[tap]
        inside = at >= job.padding_rows and at < job.padding_rows + job.rows
        slot = at % job.span if inside else job.span  # behind the ring there is a row of zeros
        places[tap] = ring + slot * slot_bytes + tap_bytes[tap]


@compiled
def _convolve_row(job: Any, places: Any, target: Word, first: Word, end: Word, spare: Word) -> None:
    """One row of outputs of blocks first..end-1."""
    step, pitch = Word(VECTOR) * job.stride_columns, Word(4) * job.channels
    for block in range(first, end):
        # The last block goes once more over some channels of the one before.
        own = Word(4) * min(Word(f.LANES) * block, job.channels - Word(f.LANES))
        scale, bias, out = job.scale + own, job.bias + own, target + own
        weights = job.weights + Word(VECTOR) * job.taps * block
        x = Word(0)
        while x < job.out_columns:
            if job.out_columns >= Word(POSITIONS):
                x = min(x, job.out_columns - Word(POSITIONS))  # once more over some of the last four
            at = (block - first) * job.pitch + x * step
            quad = f.no_quad()
            for tap in range(job.taps):
                quad = f.add_tap(quad, places[tap] + at, step, weights + Word(VECTOR) * tap)
            if job.out_columns >= Word(POSITIONS):
                f.store_scaled(quad, out + x * pitch, pitch, scale, bias)
            else:
                f.store_scaled(quad, spare, Word(VECTOR), scale, bias)
                for i in range(job.out_columns):
                    v.copy(out + i * pitch, spare + Word(VECTOR) * i, Word(VECTOR))
            x += Word(POSITIONS)


@compiled
def _work_on_unit(job: Any, unit: Word, scratch: Word) -> None:
    first = unit % job.chunks * job.chunk
    end = min(first + job.chunk, job.blocks)
    image, band = unit // job.chunks // job.bands, unit // job.chunks % job.bands
    places = carray(v.pointer(scratch + Word(VECTOR * POSITIONS)), int(job.taps), np.uint64)
    ring = scratch + Word(VECTOR * POSITIONS) + job.places_bytes
    row_bytes, out_bytes = Word(4) * job.columns * job.channels, Word(4) * job.out_columns * job.channels
    made = Word(0)  # rows of the input, its border counted, up to which levels are made or not needed
    for y in range(band * job.band, min((band + Word(1)) * job.band, job.out_rows)):
        top = y * job.stride_rows
        for row in range(max(made, top, job.padding_rows), min(top + job.span, job.padding_rows + job.rows)):
            source = job.source + (image * job.rows + (row - job.padding_rows)) * row_bytes
            _make_levels(job, source, ring + row % job.span * (job.chunk * job.pitch), first, end)
        made = top + job.span
        _locate_taps(job, top, ring, places)
        _convolve_row(job, places, job.target + (image * job.out_rows + y) * out_bytes, first, end, scratch)


def _make(sources: str) -> Any:
    def convolve_bands(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        job = carray(address, 1, JOB)[0]
        scratch = job.scratch + v.claim(job.address + Word(16)) * job.scratch_bytes
        for at in range(Word(0), job.scratch_bytes, Word(s.SUMS_BYTES)):  # the borders are zeros
            s.store_sums(scratch + at, s.no_sums())
        while True:
            unit = v.claim(job.address + Word(8))
            if unit >= job.units:
                return
            _work_on_unit(job, unit, scratch)

    return convolve_bands


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
