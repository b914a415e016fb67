"""What operands send for 64 activations at a time, whether those are 64 channels or 64 positions.

For each 64 activations a worker first writes vectors to its scratch: what every `Value` sends, and masks of whether
any, and whether two or more, of the partners in each pattern are active. An operand then picks among them.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bnrecal.nbsmt.decompose.operands import Operand
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.runtime import compiled
from bnrecal.nbsmt.policies.builtin import Value

u64 = np.uint64  # addresses and counts within kernels: mixed with signed integers they would become floats
# Scratch, in vectors of 64 bytes: one for each Value, then masks of the patterns 0 to 7, twice.
ANY = len(Value)
TWO = ANY + 8
SCRATCH_BYTES = 64 * (TWO + 8)
# An operand as uint16: how to choose, then byte offsets in scratch: sent at n = 0, 1, >= 2; masks of n >= 1, n >= 2.
TABLE_BYTES = 12
GENERAL, SAME, ONE_STEP, FROM_TWO = range(4)


def operand_table(operands: Iterable[Operand]) -> "np.ndarray[Any, np.dtype[np.uint16]]":
    """uint16 (operands, 6)."""
    rows = []
    for operand in operands:
        none, one, more = operand.values
        way = SAME if none == one == more else ONE_STEP if one == more else GENERAL
        if none == one == Value.ZERO != more:
            way = FROM_TWO
        rows.append([way, *(64 * vector for vector in (none, one, more, ANY + operand.pattern, TWO + operand.pattern))])
    return np.array(rows, np.uint16).reshape(-1, TABLE_BYTES // 2)


@compiled
def clear(scratch: u64) -> None:
    """Zeros: `Value.ZERO` and the masks of patterns without so many partners stay that."""
    for vector in range(TWO + 8):
        place = scratch + u64(64 * vector)
        v.store(place, v.load(place) ^ v.load(place))


@compiled
def write_values(a: Any, up: np.uint8, odd: np.uint8, scratch: u64) -> None:
    """0 (there already), a, r(a), and a split at 15: in the order of `Value`."""
    narrow = a & v.narrow(a)
    v.store(scratch + u64(64), a)
    v.store(scratch + u64(128), v.reduce(a, up, odd))
    v.store(scratch + u64(192), narrow)
    v.store(scratch + u64(256), a ^ narrow)


@compiled
def write_masks(u1: Any, u2: Any, u3: Any, threads: u64, scratch: u64) -> None:
    """For each pattern whether any, and whether two or more of its partners are active; u1, u2, u3: whether each is."""
    v.store(scratch + u64(64 * (ANY + 1)), u1)
    if threads < u64(4):
        return
    u12 = u1 | u2
    v.store(scratch + u64(64 * (ANY + 2)), u2)
    v.store(scratch + u64(64 * (ANY + 3)), u12)
    v.store(scratch + u64(64 * (ANY + 4)), u3)
    v.store(scratch + u64(64 * (ANY + 5)), u1 | u3)
    v.store(scratch + u64(64 * (ANY + 6)), u2 | u3)
    v.store(scratch + u64(64 * (ANY + 7)), u12 | u3)
    two = u1 & u2
    v.store(scratch + u64(64 * (TWO + 3)), two)
    v.store(scratch + u64(64 * (TWO + 5)), u1 & u3)
    v.store(scratch + u64(64 * (TWO + 6)), u2 & u3)
    v.store(scratch + u64(64 * (TWO + 7)), two | (u12 & u3))


@compiled
def select(operand: u64, scratch: u64) -> Any:
    """64 bytes of the operand whose row of the table is at this address."""
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
    one, several = v.load(scratch + v.uint16_at(operand + u64(4))), v.load(scratch + v.uint16_at(operand + u64(10)))
    return none ^ ((none ^ one) & some) ^ ((one ^ more) & several)
