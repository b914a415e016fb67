"""Activations to the operands of a policy given as tables: one look-up for each, in one pass over memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.runtime import MANY, args_dtype, compiled, kernel_entry, u64

ARGS = args_dtype(
    "levels",  # uint8 (rows, channels): a row is one group of one pixel
    "target",  # float32 (rows, width)
    "rows",
    "channels",
    "threads",  # of NB-SMT
    "width",
    "operands",
    "tables",  # float32 (operands, PARTNERS, 256)
    "chosen",  # uint32 (width,): the channel of every place
    "starts",  # uint32 (operands + 1,): the first place of every operand
    "block",  # rows of a unit
    "scratch",
    "scratch_bytes",  # of it for each worker: uint16 (block, channels)
)
PARTNERS = 8  # which of up to three partners are non-zero


@compiled
def _index_rows(levels: Any, index: Any, first: Any, last: Any, channels: Any, threads: Any) -> None:
    """Write where in every table each level of these rows finds its value."""
    part = channels // threads
    at = 0
    for row in range(first, last):
        base = row * channels
        for c in range(channels):
            place = 0
            partner = c
            for r in range(threads - 1):
                partner += part
                if partner >= channels:
                    partner -= channels
                if levels[base + partner] != 0:
                    place += 256 << r
            index[at] = place + levels[base + c]
            at += 1


@compiled
def _look_up_rows(target: Any, index: Any, first: Any, last: Any, args: Any, channels: Any) -> None:
    """Write all values of these rows, operand by operand: one table at a time is in the cache."""
    tables = carray(v.pointer(args.tables), MANY, np.float32)
    chosen = carray(v.pointer(args.chosen), MANY, np.uint32)
    starts = carray(v.pointer(args.starts), MANY, np.uint32)
    for operand in range(np.int64(args.operands)):
        table = operand * 256 * PARTNERS
        start = np.int64(starts[operand])
        end = np.int64(starts[operand + 1])
        for row in range(first, last):
            base = row * np.int64(args.width)
            own = (row - first) * channels
            for place in range(start, end):
                target[base + place] = tables[table + index[own + chosen[place]]]


@kernel_entry
def kernel(address: Any) -> None:
    """Look up all operands of a batch, a block of rows a unit."""
    args = carray(address, 1, ARGS)[0]
    levels = carray(v.pointer(args.levels), MANY, np.uint8)
    target = carray(v.pointer(args.target), MANY, np.float32)
    worker = v.claim(args.address + u64(16))
    index = carray(v.pointer(args.scratch + worker * args.scratch_bytes), MANY, np.uint16)
    channels = np.int64(args.channels)
    threads = np.int64(args.threads)
    rows = np.int64(args.rows)
    while True:
        first = np.int64(v.claim(args.address + u64(8)) * args.block)
        if first >= rows:
            return
        last = min(first + np.int64(args.block), rows)
        _index_rows(levels, index, first, last, channels, threads)
        _look_up_rows(target, index, first, last, args, channels)


def table_lookup_ref(levels: Any, selected: Sequence[tuple[int, Any, Any]], threads: int) -> Any:
    """Return float32 (rows, width), what the kernel writes, by plain loops.

    Args:
        levels: uint8 (rows, channels).
        selected: of each operand the partners that count, its table (active partners + 1, 256), and its channels.
    """
    channels = levels.shape[1]
    part = channels // threads
    rows = []
    for row in levels:
        values = []
        for pattern, table, chosen in selected:
            for channel in chosen:
                active = 0
                for r in range(1, threads):
                    counts = pattern >> (r - 1) & 1
                    active += int(counts and row[(channel + r * part) % channels] != 0)
                values.append(table[active][row[channel]])
        rows.append(values)
    return np.array(rows, np.float32)
