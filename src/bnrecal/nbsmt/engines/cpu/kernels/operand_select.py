"""The operands of 64 activations at a time, whether those are 64 channels or 64 positions.

An operand is one of the values of an activation (`Value`), chosen by how many of its partners are active. Reading that
number lane by lane would be slow, so each step is a choice between whole vectors of 64 bytes:

1. `write_values`: for these 64 activations, what every `Value` is. A vector each in the worker's scratch.
2. `write_masks`: for every pattern of partners, where any of them is active (0xFF, else 0), and where two or more are.
   Eight vectors and eight more.
3. `select`: for each operand, pick among those vectors. Its record says where they lie.

Scratch of one worker, in vectors of 64 bytes:

    0 ZERO  1 EXACT  2 REDUCED ... | ANY + p: any of pattern p = 0..7 | TWO + p: two or more of pattern p

Example: T = 4, pattern 5 = partners 1 and 3, values (EXACT, REDUCED, ZERO). One activation 200 whose partners are
(9, 0, 3): REDUCED of 200 is 192; partners 1 and 3 are both active, so "any of 5" and "two of 5" are 0xFF. The operand
is none ^ ((none ^ one) & any) ^ ((one ^ more) & two) = 200 ^ (200 ^ 192) ^ (192 ^ 0) = 0, the third value.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numba import types

from bnrecal.nbsmt.decompose.operands import Operand
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.runtime import compiled, u64
from bnrecal.nbsmt.policies.builtin import Value

# ruff: noqa: ARG001  (of an intrinsic)
# Scratch, in vectors of 64 bytes: one for each Value, then masks of the patterns 0 to 7, twice.
ANY = len(Value)
TWO = ANY + 8
SCRATCH_BYTES = 64 * (TWO + 8)
# An operand's record is six uint16, 12 bytes: how to choose, then byte offsets of vectors in scratch.
#   byte 0: GENERAL, SAME, ONE_STEP or FROM_TWO
#   bytes 2, 4, 6: the values at n = 0, n = 1 and n >= 2 active partners
#   bytes 8, 10: the masks of n >= 1 and n >= 2
# The operand of the example above: (GENERAL, 64, 128, 0, 64 * (ANY + 5), 64 * (TWO + 5)).
TABLE_BYTES = 12
# Most operands need fewer loads than the general case:
#   SAME: one value whatever n. ONE_STEP: n = 1 as n >= 2. FROM_TWO: nothing below n = 2.
GENERAL, SAME, ONE_STEP, FROM_TWO = range(4)


def operand_table(operands: Iterable[Operand]) -> "np.ndarray[Any, np.dtype[np.uint16]]":
    """Return uint16 (operands, 6), the records that `select` reads."""
    rows = []
    for operand in operands:
        vectors = (*operand.values, ANY + operand.pattern, TWO + operand.pattern)
        rows.append([_way(operand), *(64 * vector for vector in vectors)])
    return np.array(rows, np.uint16).reshape(-1, TABLE_BYTES // 2)


def _way(operand: Operand) -> int:
    none, one, more = operand.values
    if none == one == more:
        return SAME
    if none == one == Value.ZERO:
        return FROM_TWO
    return ONE_STEP if one == more else GENERAL


@compiled
def clear(scratch: u64) -> None:
    """Write zeros: `Value.ZERO` and the masks of patterns without so many partners stay that."""
    v.clear(scratch, u64(SCRATCH_BYTES))


@v.intrinsic
def write_values(_context: Any, a: Any, up: Any, odd: Any, scratch: Any) -> Any:
    """Write every `Value` in its place but ZERO, which is there already.

    Args:
        a: U8x64, the activations.
        up, odd: uint8, 7 and 1 where r rounds half to even, 0 and 0 where it rounds down.
        scratch: uint64, its address.
    """

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        a, up, odd, scratch = args
        reduced = v.reduced(builder, a, v.broadcast(builder, up, a.type), v.broadcast(builder, odd, a.type))
        by_width = v.by_width(builder, a)
        for value in Value:
            if value != Value.ZERO:
                v.store_at(builder, scratch, value.of(v.splat(0), a, reduced, by_width), 64 * value)
        return context.get_dummy_value()

    return types.void(v.u8x64, types.uint8, types.uint8, types.uint64), code


@compiled
def write_masks(u1: Any, u2: Any, u3: Any, threads: u64, scratch: u64) -> None:
    """Write for each pattern where any, and where two or more of its partners are active.

    Args:
        u1, u2, u3: U8x64, 0xFF where partner 1, 2, 3 is active, else 0. With two threads there is partner 1 alone.
    """
    v.store(scratch + u64(64 * (ANY + 1)), u1)
    if threads < u64(4):
        return
    # Bit r - 1 of a pattern is partner r: pattern 3 is partners 1 and 2, pattern 5 partners 1 and 3.
    u12 = u1 | u2
    v.store(scratch + u64(64 * (ANY + 2)), u2)
    v.store(scratch + u64(64 * (ANY + 3)), u12)
    v.store(scratch + u64(64 * (ANY + 4)), u3)
    v.store(scratch + u64(64 * (ANY + 5)), u1 | u3)
    v.store(scratch + u64(64 * (ANY + 6)), u2 | u3)
    v.store(scratch + u64(64 * (ANY + 7)), u12 | u3)
    # Two of a pattern with one partner never are: those masks stay zero.
    two = u1 & u2
    v.store(scratch + u64(64 * (TWO + 3)), two)
    v.store(scratch + u64(64 * (TWO + 5)), u1 & u3)
    v.store(scratch + u64(64 * (TWO + 6)), u2 & u3)
    v.store(scratch + u64(64 * (TWO + 7)), two | (u12 & u3))


@compiled
def select(operand: u64, scratch: u64) -> Any:
    """Return 64 bytes of the operand whose record is at this address.

    x ^ ((x ^ y) & mask) is y where the mask is 0xFF, else x.
    """
    way = v.uint16_at(operand)
    none = v.load(scratch + v.uint16_at(operand + u64(2)))
    if way == u64(SAME):
        return none
    more = v.load(scratch + v.uint16_at(operand + u64(6)))
    if way == u64(FROM_TWO):
        return more & v.load(scratch + v.uint16_at(operand + u64(10)))
    some = v.load(scratch + v.uint16_at(operand + u64(8)))
    if way == u64(ONE_STEP):
        return none ^ ((none ^ more) & some)
    one = v.load(scratch + v.uint16_at(operand + u64(4)))
    several = v.load(scratch + v.uint16_at(operand + u64(10)))
    return none ^ ((none ^ one) & some) ^ ((one ^ more) & several)


def operand_select_ref(operand: Operand, a: int, partners: Sequence[int], half_even: bool) -> int:
    """Return an operand of one activation, 0..255, from its definition.

    Args:
        a: the activation, 0..255.
        partners: the activations of partners 1, 2, ..., T - 1.
        half_even: how r(a) rounds, else down.
    """
    active = 0
    for bit, partner in enumerate(partners):
        active += int(operand.pattern >> bit & 1 and partner != 0)
    value = operand.values[min(active, 2)]
    return value.of(0, a, _reduce_ref(a, half_even), lambda narrow, wide: narrow if a <= 15 else wide)


def _reduce_ref(a: int, half_even: bool) -> int:
    if a <= 15:
        return a
    steps = round(a / 16) if half_even else a // 16
    return min(16 * steps, 240)
