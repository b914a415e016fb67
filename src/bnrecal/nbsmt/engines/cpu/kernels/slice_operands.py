"""The operands of four partner channels at once, in registers: policy A at four threads.

A *slice* is four channels that are partners of each other. What a weight of one of them multiplies depends on which of
its partners have weights (its pattern). `operand_select` makes operands channel by channel, through scratch, for any
policy; here every r(a) and every mask is made once for the whole slice and stays in registers, four times as fast.

The planes of a slice come in three sets, each made as a whole where a weight needs any of it:

    PAIRS    12 planes: of each channel and each pattern of two partners, main and extra
    SINGLES   8 planes: operands without an extra, two channels to a plane: so chosen that two weights which have only
              each other find both of theirs in one plane, and become one entry
    FULL      4 planes: of each channel, main and extra of the pattern of all partners
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from bnrecal.nbsmt.decompose.operands import Operand, canonical_operand
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import operand_select_ref
from bnrecal.nbsmt.engines.cpu.kernels.simd_u8 import (
    LANES,
    broadcast,
    by_width,
    intrinsic,
    load_at,
    reduced,
    splat,
    store_zipped_at,
)
from bnrecal.nbsmt.policies.builtin import built_in

# ruff: noqa: ARG001
CHANNELS = 4
_BYTES = ir.VectorType(ir.IntType(8), LANES)


@dataclass(frozen=True)
class Side:
    """Half of a plane: an operand of one of the slice's channels."""

    channel: int
    operand: Operand


Plane = tuple[Side, Side]


def _side(channel: int, pattern: int, term: int = 0) -> Side:
    """Return policy A's first operand (main) of a channel and pattern, or its second (extra)."""
    values = built_in("A").terms[term].values
    return Side(channel % CHANNELS, canonical_operand(pattern, values))


def _main_and_extra(channel: int, pattern: int) -> Plane:
    return _side(channel, pattern), _side(channel, pattern, 1)


# Bit r - 1 of a pattern is partner r, channel c + r: pattern 1 of channel c means c + 1, and 4 of c + 1 means c.
PAIRS = tuple(_main_and_extra(c, pattern) for c in range(CHANNELS) for pattern in (3, 5, 6))
SINGLES = (
    *((_side(c, 1), _side(c + 1, 4)) for c in range(CHANNELS)),
    *((_side(c, 2), _side(c + 2, 2)) for c in range(CHANNELS // 2)),
    *((_side(c, 0), _side(c + 1, 0)) for c in (0, 2)),
)
FULL = tuple(_main_and_extra(c, 7) for c in range(CHANNELS))
# Operands of the full pattern, by threads; where those are all, no scratch is needed to make them.
FULL_OPERANDS = {2: (_side(0, 1).operand,), CHANNELS: tuple(side.operand for side in FULL[0])}
SETS: tuple[tuple[Plane, ...], ...] = (PAIRS, SINGLES, FULL)
SLICE_PLANES = (*PAIRS, *SINGLES, *FULL)


class _Slice:
    """64 positions of four channels in registers: activations, r(a), and where each is active."""

    def __init__(self, builder: Any, levels: Any, pitch: Any, up: Any, odd: Any) -> None:
        self.builder = builder
        self.a = []
        for _ in range(CHANNELS):
            self.a.append(load_at(builder, levels, _BYTES))
            levels = builder.add(levels, pitch)
        self.r = [reduced(builder, a, up, odd) for a in self.a]
        self.active = [builder.icmp_unsigned("!=", a, splat(0)) for a in self.a]

    def operand(self, side: Side) -> Any:
        """Return 64 bytes; the same masks of several operands are computed once, LLVM sees to that."""
        c = side.channel
        choose = by_width(self.builder, self.a[c])
        none, one, more = (value.of(splat(0), self.a[c], self.r[c], choose) for value in side.operand.values)
        partners = [(c + r) % CHANNELS for r in (1, 2, 3) if side.operand.pattern >> r - 1 & 1]
        if not partners:
            return none
        # Where any partner is active, and where two or more are.
        some = self.active[partners[0]]
        several = ir.Constant(some.type, [0] * LANES)
        for partner in partners[1:]:
            several = self.builder.or_(several, self.builder.and_(some, self.active[partner]))
            some = self.builder.or_(some, self.active[partner])
        return self.builder.select(several, more, self.builder.select(some, one, none))


def _writer(planes: tuple[Plane, ...]) -> Any:
    """Make what writes 64 positions of a set of planes."""

    @intrinsic
    def write(_context: Any, levels: Any, pitch: Any, target: Any, plane_bytes: Any, up: Any, odd: Any) -> Any:
        """Write pairs of bytes, 128 to each plane.

        Args:
            levels: address of the first channel's activations; the next channels' lie `pitch` bytes apart.
            target: of the first plane; the next ones lie `plane_bytes` apart.
            up, odd: 7 and 1 where r rounds half to even, 0 and 0 where it rounds down.
        """

        def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
            levels, pitch, target, plane_bytes, up, odd = args
            values = _Slice(builder, levels, pitch, broadcast(builder, up, _BYTES), broadcast(builder, odd, _BYTES))
            for first, second in planes:
                store_zipped_at(builder, target, values.operand(first), values.operand(second))
                target = builder.add(target, plane_bytes)
            return context.get_dummy_value()

        return types.void(*(types.uint64,) * 4, types.uint8, types.uint8), code

    return write


write_pairs = _writer(PAIRS)
write_singles = _writer(SINGLES)
write_full = _writer(FULL)


def slice_operands_ref(planes: tuple[Plane, ...], levels: Any, half_even: bool) -> Any:
    """Return uint8 (planes, positions, 2), a set of planes by their definition.

    Args:
        levels: uint8 (4, positions), of the slice's channels.
    """
    made = np.zeros((len(planes), levels.shape[1], 2), np.uint8)
    for number, position, half in np.ndindex(made.shape):
        side = planes[number][half]
        a, *partners = (int(levels[(side.channel + r) % CHANNELS, position]) for r in range(CHANNELS))
        made[number, position, half] = operand_select_ref(side.operand, a, partners, half_even)
    return made
