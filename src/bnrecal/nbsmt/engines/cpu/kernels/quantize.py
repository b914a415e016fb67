"""Float32 activations to bytes, and from them the dense operands, in one pass over memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.decompose.operands import Operand
from bnrecal.nbsmt.engines.cpu.kernels import operand_select, slice_operands
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import TABLE_BYTES, operand_select_ref
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compiled, kernel_entry, u64

SPARE_BYTES = 256
ARGS = args_dtype(
    "source",  # float32 (pixels, groups, channels), or 0: the levels are there already
    "levels",  # uint8 (pixels, groups, channels)
    "target",  # uint8 (pixels, groups, operands * channels)
    "pixels",
    "groups",
    "channels",  # of one group
    "threads",  # of NB-SMT
    "operands",
    "full",  # whether they are those of the full pattern under policy A, at two or four threads
    "table",
    "round_up",  # of r(a): 7 and 1 to half even, 0 and 0 down
    "round_odd",
    "block",  # pixels of a unit
    "scratch",
    "scratch_bytes",  # of it for each worker: `operand_select`'s, one pixel's masks twice, one expanded pixel
    floats=("inverse", "lowest", "highest", "offset"),
)


@compiled
def _quantize(source: u64, target: u64, count: u64, args: Any, spare: u64) -> None:
    """Quantize `count` floats; `spare` is scratch of 256 bytes."""
    inverse = args.inverse
    lowest = args.lowest
    highest = args.highest
    offset = args.offset
    i = u64(0)
    while i < count:
        if i + u64(64) > count:
            if count < u64(64):
                v.copy(spare, source, u64(4) * count)
                v.store(spare, v.quantize(spare, inverse, lowest, highest, offset))
                v.copy(target, spare, count)
                return
            i = count - u64(64)  # once more over some of the last vector
        v.store(target + i, v.quantize(source + u64(4) * i, inverse, lowest, highest, offset))
        i += u64(64)


@compiled
def _mark_active(levels: u64, masks: u64, channels: u64) -> None:
    """Write the masks of one pixel twice in a row, so that a partner's mask lies at a fixed distance."""
    for start in (masks, masks + channels):
        c = u64(0)
        while c < channels:
            v.store(start + c, v.nonzero(v.load(levels + c)))
            c += u64(64)


@compiled
def _expand_pixel(levels: u64, target: u64, args: Any, scratch: u64) -> None:
    """Write all operands of one pixel of one group: (channels,) to (operands * channels,), two and two alternating."""
    channels = args.channels
    masks = scratch + u64(operand_select.SCRATCH_BYTES)
    part = channels // args.threads
    _mark_active(levels, masks, channels)
    c = u64(0)
    while c < channels:
        if c + u64(64) > channels and channels > u64(64):
            c = channels - u64(64)
        operand_select.write_values(v.load(levels + c), np.uint8(args.round_up), np.uint8(args.round_odd), scratch)
        own = masks + c
        u1 = v.load(own + part)
        u2 = v.load(own + part + part)
        u3 = v.load(own + part + part + part)
        operand_select.write_masks(u1, u2, u3, args.threads, scratch)
        operand = args.table
        out = target
        left = args.operands
        while left > u64(1):
            first = operand_select.select(operand, scratch)
            second = operand_select.select(operand + u64(TABLE_BYTES), scratch)
            v.store_zipped(out + c + c, first, second)
            operand += u64(2 * TABLE_BYTES)
            out += channels + channels
            left -= u64(2)
        if left:
            v.store(out + c, operand_select.select(operand, scratch))
        c += u64(64)


@compiled
def _expand_full(levels: u64, target: u64, args: Any) -> None:
    """Write main and extra of the full pattern at four threads, as `_expand_pixel` would, of all threads at once."""
    up = np.uint8(args.round_up)
    odd = np.uint8(args.round_odd)
    part = args.channels // u64(slice_operands.CHANNELS)
    c = u64(0)
    while c < part:
        if c + u64(64) > part and part > u64(64):
            c = part - u64(64)
        # What sticks out of one thread's channels, the next thread's overwrite.
        slice_operands.write_full(levels + c, part, target + c + c, part + part, up, odd)
        c += u64(64)


@compiled
def _reduced_where(a: Any, partner: Any, args: Any) -> Any:
    """Return r(a) where the partner is active, else a."""
    return a ^ ((a ^ v.reduce(a, np.uint8(args.round_up), np.uint8(args.round_odd))) & v.nonzero(partner))


@compiled
def _expand_full_of_two(levels: u64, target: u64, args: Any) -> None:
    """Write the one operand of the full pattern at two threads, as `_expand_pixel` would."""
    part = args.channels // u64(2)
    c = u64(0)
    while c < part:
        if c + u64(64) > part and part > u64(64):
            c = part - u64(64)
        a = v.load(levels + c)
        b = v.load(levels + part + c)
        v.store(target + c, _reduced_where(a, b, args))
        v.store(target + part + c, _reduced_where(b, a, args))
        c += u64(64)


@compiled
def _expand(levels: u64, target: u64, args: Any, scratch: u64) -> None:
    if not args.full:
        _expand_pixel(levels, target, args, scratch)
    elif args.threads == u64(2):
        _expand_full_of_two(levels, target, args)
    else:
        _expand_full(levels, target, args)


@compiled
def _work_on_block(args: Any, first: u64, last: u64, scratch: u64) -> None:
    """Quantize and expand pixels first..last-1."""
    values = args.groups * args.channels
    levels = args.levels + first * values
    count = (last - first) * values
    spare = scratch + args.scratch_bytes - args.operands * args.channels - u64(SPARE_BYTES)
    if args.source:
        _quantize(args.source + u64(4) * first * values, levels, count, args, spare)
    size = args.operands * args.channels
    if not size:
        return
    target = args.target + first * args.groups * size
    end = args.target + last * args.groups * size
    while target < end:
        # A vector may stick out of its operand into the next, written later, but never out of the block.
        if args.channels < u64(256) and target + size + u64(128) > end:
            _expand(levels, spare, args, scratch)
            v.copy(target, spare, size)
        else:
            _expand(levels, target, args, scratch)
        levels += args.channels
        target += size


@kernel_entry
def kernel(address: Any) -> None:
    """Quantize a batch, a block of pixels a unit."""
    args = carray(address, 1, ARGS)[0]
    scratch = args.scratch + v.claim(args.address + u64(16)) * args.scratch_bytes
    operand_select.clear(scratch)
    while True:
        first = v.claim(args.address + u64(8)) * args.block
        if first >= args.pixels:
            return
        _work_on_block(args, first, min(first + args.block, args.pixels), scratch)


def quantize_ref(x: Any, inverse: float, lowest: float, highest: float, offset: float) -> Any:
    """Return uint8, shaped as float32 `x`: clamp(round_half_even(x * inverse), lowest, highest) + offset; NaN is 0."""
    levels = np.zeros(x.shape, np.uint8)
    for place, value in np.ndenumerate(x):
        level = np.rint(np.float32(value) * np.float32(inverse))
        if np.isnan(level):
            level = np.float32(0)
        levels[place] = int(min(max(level, lowest), highest) + offset)
    return levels


def expand_ref(levels: Any, operands: Sequence[Operand], threads: int, half_even: bool) -> Any:
    """Return the dense operands of one pixel's levels, uint8 (channels,) to (operands * channels,).

    Operands 0 and 1 alternate channel by channel, then 2 and 3, and so on; an odd last one follows alone.
    """
    channels = len(levels)
    part = channels // threads
    expanded = []
    for at in range(0, len(operands), 2):
        for channel in range(channels):
            partners = [int(levels[(channel + r * part) % channels]) for r in range(1, threads)]
            for operand in operands[at : at + 2]:
                expanded.append(operand_select_ref(operand, int(levels[channel]), partners, half_even))
    return np.array(expanded, np.uint8)
