"""From float32 activations to expanded 8-bit channels in one pass over memory.

`quantize_activation` and `expand_activations` define the result; this is the same in numba, 64 channels at a time.
A call is a `Job`, an array of words that any number of threads may work on together. Compiled code is kept beside this
file or in numba's cache folder, and where neither can be written it is compiled again in every process.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numba import carray, cfunc, config, njit, types  # type: ignore[attr-defined]
from numba.core.errors import NumbaError

from bnrecal.nbsmt.cpu import vectors as v

Function = TypeVar("Function", bound=Callable[..., None])
# Addresses and counts within kernels: mixed with signed integers they would become floats.
Word = np.uint64
_0, _1, _4, _64 = Word(0), Word(1), Word(4), Word(64)


class Job(IntEnum):
    """The words of a job: addresses, sizes and counters as uint64, and from SCALE four float32 in two words."""

    SOURCE = 0  # float32 (pixels, groups, channels)
    TARGET = 1  # uint8 (pixels, groups, width)
    PIXELS = 2
    GROUPS = 3
    CHANNELS = 4  # of one group
    THREADS = 5  # of NB-SMT
    OPERANDS = 6  # the whole ones first
    ROUND_UP = 7  # of r(a): 7 and 1 to half even, 0 and 0 down
    ROUND_ODD = 8
    BLOCK = 9  # pixels a worker takes at a time
    SCRATCH = 10
    SCRATCH_BYTES = 11  # of it for each worker
    NEXT_WORKER = 12  # counters, 0 at the start
    NEXT_BLOCK = 13
    SCALE = 14  # 1 / x_scale, lowest, highest, offset
    TABLE = 16  # per operand five offsets into VECTORS: what is sent at n = 0, 1, >= 2; masks of n >= 1 and n >= 2
    ADDRESS = 96  # of the job itself
    WHOLE = 97  # operands of which every channel is sent
    WIDTH = 98  # what is sent of one group: the whole operands, then bytes picked from scratch
    PICKS = 99  # their offsets in scratch, uint32
    ASIDE = 100  # offset in scratch of the operands to pick from


JOB_WORDS = 101


# Scratch of a worker: vectors of the present 64 channels (the five kinds of `Value`, and the masks of eight patterns
# twice), then the non-zero masks of one pixel twice over, one expanded pixel, the operands to pick from, and the
# quantized block, each with room for a last vector that sticks out.
ANY, TWO, VECTORS = 5, 13, 21


def aside_offset(channels: int, width: int) -> int:
    """Where the operands to pick from lie in scratch."""
    return 64 * VECTORS + (2 * channels + 64) + (width + 320)


def scratch_bytes(channels: int, groups: int, width: int, picked_operands: int, block: int) -> int:
    """What one worker needs."""
    return aside_offset(channels, width) + (picked_operands * channels + 64) + (block * groups * channels + 64)


def _compiled(function: Function) -> Function:
    try:
        compiled: Any = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        compiled = njit(nogil=True)(function)
    return compiled  # type: ignore[no-any-return]


@_compiled
def _quantize(source: Word, target: Word, count: Word, scale: Any, spare: Word) -> None:
    """Quantize `count` floats; `spare` is scratch of 256 bytes."""
    i = _0
    while i < count:
        if i + _64 > count:
            if count < _64:
                v.copy(spare, source, _4 * count)
                v.store(spare, v.quantize(spare, scale[0], scale[1], scale[2], scale[3]))
                v.copy(target, spare, count)
                return
            i = count - _64  # once more over some of the last vector
        v.store(target + i, v.quantize(source + _4 * i, scale[0], scale[1], scale[2], scale[3]))
        i += _64


@_compiled
def _mark_nonzero(q: Word, marks: Word, channels: Word) -> None:
    """Masks of one pixel twice in a row, so that a partner's mask lies at a fixed distance."""
    for start in (marks, marks + channels):
        c = _0
        while c < channels:
            v.store(start + c, v.nonzero(v.load(q + c)))
            c += _64


@_compiled
def _partner_masks(marks: Word, part: Word, threads: Word, vectors: Word) -> None:
    """For each pattern: whether any, and whether two or more of its partners are non-zero."""
    u1 = v.load(marks + part)
    v.store(vectors + Word(64 * (ANY + 1)), u1)
    if threads < _4:
        return
    u2, u3 = v.load(marks + part + part), v.load(marks + part + part + part)
    u12 = v.either(u1, u2)
    v.store(vectors + Word(64 * (ANY + 2)), u2)
    v.store(vectors + Word(64 * (ANY + 3)), u12)
    v.store(vectors + Word(64 * (ANY + 4)), u3)
    v.store(vectors + Word(64 * (ANY + 5)), v.either(u1, u3))
    v.store(vectors + Word(64 * (ANY + 6)), v.either(u2, u3))
    v.store(vectors + Word(64 * (ANY + 7)), v.either(u12, u3))
    two = v.both(u1, u2)
    v.store(vectors + Word(64 * (TWO + 3)), two)
    v.store(vectors + Word(64 * (TWO + 5)), v.both(u1, u3))
    v.store(vectors + Word(64 * (TWO + 6)), v.both(u2, u3))
    v.store(vectors + Word(64 * (TWO + 7)), v.either(two, v.both(u12, u3)))


@_compiled
def _activation_values(a: Any, up: np.uint8, odd: np.uint8, vectors: Word) -> None:
    """0 (there already), a, r(a), and a split at 15: in the order of `Value`."""
    narrow = v.both(a, v.narrow(a))
    v.store(vectors + Word(64), a)
    v.store(vectors + Word(128), v.reduce(a, up, odd))
    v.store(vectors + Word(192), narrow)
    v.store(vectors + Word(256), v.differ(a, narrow))


@_compiled
def _send(job: Any, s: int, vectors: Word, out: Word) -> None:
    """64 channels of the operand whose table starts at word s."""
    none, one, more = v.load(vectors + job[s]), v.load(vectors + job[s + 1]), v.load(vectors + job[s + 2])
    some, several = v.load(vectors + job[s + 3]), v.load(vectors + job[s + 4])
    chosen = v.differ(none, v.both(v.differ(none, one), some))
    v.store(out, v.differ(chosen, v.both(v.differ(one, more), several)))


@_compiled
def _expand_pixel(q: Word, target: Word, job: Any, vectors: Word) -> None:
    """All operands of one pixel of one group: (channels,) to (width,)."""
    channels, threads, picks = job[4], job[5], job[99]
    first_picked, end = 16 + 5 * job[97], 16 + 5 * job[6]
    marks, part = vectors + Word(64 * VECTORS), channels // threads
    _mark_nonzero(q, marks, channels)
    up, odd = np.uint8(job[7]), np.uint8(job[8])
    c = _0
    while c < channels:
        if c + _64 > channels and channels > _64:
            c = channels - _64
        _activation_values(v.load(q + c), up, odd, vectors)
        _partner_masks(marks + c, part, threads, vectors)
        out = target + c
        for s in range(16, first_picked, 5):
            _send(job, s, vectors, out)
            out += channels
        out = vectors + job[100] + c
        for s in range(first_picked, end, 5):
            _send(job, s, vectors, out)
            out += channels
        c += _64
    for i in range(job[97] * channels, job[98]):
        v.pick(target + i, vectors, picks)
        picks += _4


@_compiled
def _expand_block(job: Any, scale: Any, first: Word, last: Word, scratch: Word) -> None:
    """Pixels first..last-1."""
    groups, channels, size = job[3], job[4], job[98]
    values = groups * channels
    source, count = job[0] + _4 * first * values, (last - first) * values
    target = job[1] + first * groups * size
    spare = scratch + Word(64 * VECTORS) + channels + channels + _64
    if job[5] == _1:
        _quantize(source, target, count, scale, spare)
        return
    q = scratch + job[100] + (job[6] - job[97]) * channels + _64
    _quantize(source, q, count, scale, spare)
    end = target + (last - first) * groups * size
    while target < end:
        # A vector may stick out of its operand into the next, written later, but never out of the block.
        if target + size - channels + _64 > end and channels < _64:
            _expand_pixel(q, spare, job, scratch)
            v.copy(target, spare, size)
        else:
            _expand_pixel(q, target, job, scratch)
        q += channels
        target += size


def _work(address: Any) -> None:
    """One worker's share of the job at an address: blocks, until none is left."""
    job, scale = carray(address, JOB_WORDS, Word), carray(address, 2 * JOB_WORDS, np.float32)[28:32]
    scratch = job[10] + v.claim(job[96] + Word(8 * 12)) * job[11]
    for vector in range(VECTORS):
        zeroed = scratch + Word(64 * vector)
        v.store(zeroed, v.differ(v.load(zeroed), v.load(zeroed)))
    while True:
        first = v.claim(job[96] + Word(8 * 13)) * job[9]
        if first >= job[2]:
            return
        _expand_block(job, scale, first, min(first + job[9], job[2]), scratch)


@cache
def worker() -> Any | None:
    """`_work` as a C function (numba's CFunc), or None where numba is switched off or cannot compile here."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None
    signature = types.void(types.voidptr)
    try:
        return cfunc(signature, cache=True)(_work)
    except RuntimeError:  # no folder to keep it in
        try:
            return cfunc(signature)(_work)
        except (RuntimeError, NumbaError):
            return None
    except (OSError, NumbaError):
        return None
