"""NB-SMT as a short dense convolution and sparse weights (docs/nbsmt.md derives it).

Nearly every weight of a real network has the full pattern: none of its partners' weights is zero. Its operands are the
input channels of a dense convolution. Every other weight goes into a list of (filter, channel, tap) with its own
operands, and so does what the dense convolution cannot hold.

Dense channels stand in pairs. oneDNN without VNNI adds the products of channels 2i and 2i + 1 in 16 bits:
255 * (|b| + |b'|) must stay below 2^15, that is |b| + |b'| <= 128 where both have one sign. Under policy A the two
operands of a channel are such a pair, r(a) * b + r(a) * e(b) with b + e(b) = r(b), which fits as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from bnrecal.nbsmt.decompose.operands import (
    ACTIVATION,
    NOTHING,
    Operand,
    full_pattern,
    operands_of,
    weight_for,
    weight_parts,
    weight_patterns,
)
from bnrecal.nbsmt.spec import SmtSpec

PAIR_LIMIT = 128  # 255 * 128 < 2^15 <= 255 * 129
Kind = tuple[Operand, Operand]


@dataclass(frozen=True, eq=False)
class SparseWeights:
    """Weights one by one.

    Attributes:
        kinds: pairs of operands that entries meet.
        filters, channels, taps: int64 (entries,); channels count within the filter's group, taps row by row.
        kind: int64 (entries,), which of `kinds`.
        weights: int16 (entries, 2), -128..127, for the kind's first and second operand. Products of one entry add up
            to less than 2^15.
    """

    kinds: tuple[Kind, ...]
    filters: Tensor
    channels: Tensor
    taps: Tensor
    kind: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.filters)


@dataclass(frozen=True, eq=False)
class DenseSparse:
    """A layer's weights in two parts that add up.

    Attributes:
        operands: of the dense channels, empty where everything is listed. The first two alternate channel by channel,
            then the third and fourth, and so on; an odd last one follows channel after channel.
        weight: int8 (O, len(operands) * C, kh, kw), None without operands.
        listed: the rest.
    """

    operands: tuple[Operand, ...]
    weight: Tensor | None
    sparse: SparseWeights

    @property
    def plain(self) -> bool:
        """Whether the dense channels are the activations as they are."""
        return self.operands == (ACTIVATION,)


class DenseShare(Enum):
    """Which weights the dense channels hold."""

    NONE = "none"  # all of them are listed
    FULL = "full"  # those of the full pattern
    ALL = "all"  # those of every pattern; for a single one, neighbours that are always zero leave pairs nothing to list


def decompose_weights(w: Tensor, spec: SmtSpec, *, paired: bool, dense: DenseShare = DenseShare.FULL) -> DenseSparse:
    """Divide a layer's weights.

    Args:
        w: int8 (O, C, kh, kw) with C a multiple of spec.threads; C counts one group's channels.
        spec: with saturated operands: 256 and 128 do not fit.
        paired: the dense part adds pairs of channels in 16 bits.
        dense: which weights are dense.
    """
    builder, patterns = _SparseBuilder(w, spec), weight_patterns(w, spec)
    present, full = torch.unique(patterns).tolist(), full_pattern(spec.threads)
    held = {DenseShare.NONE: [], DenseShare.FULL: [full], DenseShare.ALL: sorted({full, *present}, reverse=True)}[dense]
    operands: tuple[Operand, ...] = ()
    weight = None
    if held:
        operands, weight = _dense_part(w, spec, {pattern: patterns == pattern for pattern in held})
        if dense is DenseShare.ALL and len(operands) == 1:
            operands, weight = (*operands, NOTHING), torch.stack([weight, torch.zeros_like(weight)], 2).flatten(1, 2)
        if paired:
            builder.add_excess(operands, weight)
        weight = weight.to(torch.int8)
    for pattern in present:
        if pattern not in held:
            builder.add_pattern(pattern, ((patterns == pattern) & (w != 0)).nonzero())
    return DenseSparse(operands, weight, builder.finish())


def _dense_part(w: Tensor, spec: SmtSpec, places: dict[int, Tensor]) -> tuple[tuple[Operand, ...], Tensor]:
    """The operands of these patterns, and int16 (O, len * C, kh, kw) in their order; places: where each one holds."""
    parts, weights = weight_parts(w, spec), dict[Operand, Tensor]()
    for pattern, where in places.items():
        for operand, names in operands_of(pattern, spec).items():
            met = weight_for(parts, names) * where
            weights[operand] = weights[operand] + met if operand in weights else met
    used = {operand: weight for operand, weight in weights.items() if weight.any()}
    used = used or {ACTIVATION: torch.zeros_like(parts["b"])}
    operands, together = tuple(used), list(used.values())
    blocks = [torch.stack(together[i : i + 2], 2).flatten(1, 2) for i in range(0, len(together), 2)]
    return operands, torch.cat(blocks, 1)


class _SparseBuilder:
    """Entries as they are found: of pairs of operands, and of single ones."""

    def __init__(self, w: Tensor, spec: SmtSpec) -> None:
        self.w, self.spec = w, spec
        self.pairs: dict[Kind, list[tuple[Tensor, Tensor]]] = {}
        self.singles: dict[Operand, list[tuple[Tensor, Tensor]]] = {}

    def add_pattern(self, pattern: int, places: Tensor) -> None:
        """The weights at `places`, int64 (n, 4), which all have this pattern."""
        if not len(places):
            return
        parts = weight_parts(self.w[tuple(places.T)], self.spec)
        met = [(operand, weight_for(parts, names)) for operand, names in operands_of(pattern, self.spec).items()]
        for first, second in zip(met[::2], met[1::2], strict=False):
            self._add_pair((first[0], second[0]), places, first[1], second[1])
        if len(met) % 2:
            self._add_single(met[-1][0], places, met[-1][1])

    def _add_pair(self, kind: Kind, places: Tensor, first: Tensor, second: Tensor) -> None:
        one_sign = (first ^ second) >= 0
        fits = ~one_sign | (first.abs() + second.abs() <= PAIR_LIMIT) | kind[0].excludes(kind[1])
        chosen = fits & ((first != 0) | (second != 0))
        if chosen.any():
            weights = torch.stack([first[chosen], second[chosen]], 1)
            self.pairs.setdefault(kind, []).append((places[chosen], weights))
        for operand, weight in zip(kind, (first, second), strict=True):
            self._add_single(operand, places[~fits], weight[~fits])

    def _add_single(self, operand: Operand, places: Tensor, weight: Tensor) -> None:
        some = weight != 0
        if some.any():
            self.singles.setdefault(operand, []).append((places[some], weight[some]))

    def add_excess(self, operands: tuple[Operand, ...], weight: Tensor) -> None:
        """Take out of the dense weights (O, len(operands) * C, kh, kw) what pairs of them have beyond 16 bits."""
        channels = self.w.shape[1]
        for at in range(0, len(operands), 2):
            couple = operands[at : at + 2]
            if len(couple) == 2 and couple[0].excludes(couple[1]):
                continue
            block = weight[:, at * channels : (at + len(couple)) * channels]
            pairs = block[:, : block.shape[1] // 2 * 2].view(len(block), -1, 2, *block.shape[2:])
            excess = _excess(pairs)
            pairs -= excess
            for filters, pair, side, row, column in _columns(excess):
                index = 2 * pair + side
                places = torch.stack([filters, index // len(couple), row, column], 1)
                found = excess[filters, pair, side, row, column]
                for which, operand in enumerate(couple):
                    own = index % len(couple) == which
                    self._add_single(operand, places[own], found[own])

    def finish(self) -> SparseWeights:
        """Single operands share a kind two by two."""
        kinds = {kind: list(found) for kind, found in self.pairs.items()}
        alone = sorted(self.singles)
        for first, second in zip(alone[::2], [*alone[1::2], NOTHING], strict=False):
            held = kinds.setdefault((first, second), [])
            for side, operand in enumerate((first, second)):
                for places, weight in self.singles.get(operand, ()):
                    weights = torch.zeros(len(weight), 2, dtype=torch.int16)
                    weights[:, side] = weight
                    held.append((places, weights))
        return _joined(kinds, self.w.shape[3])


def _excess(pairs: Tensor) -> Tensor:
    """int16 as pairs (O, pairs, 2, kh, kw): what the larger of two weights of one sign is over the limit."""
    magnitude = pairs.abs()
    one_sign = (pairs[:, :, :1] ^ pairs[:, :, 1:]) >= 0
    over = (magnitude.sum(2, keepdim=True, dtype=torch.int16) - PAIR_LIMIT).clamp_(min=0) * one_sign
    first_larger = magnitude[:, :, :1] >= magnitude[:, :, 1:]
    return torch.cat([over * first_larger, over * ~first_larger], 2) * pairs.sign()


def _columns(found: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The coordinates of what is not zero, if anything is."""
    places = found.nonzero()
    return [places.unbind(1)] if len(places) else []


def _joined(kinds: dict[Kind, list[tuple[Tensor, Tensor]]], columns: int) -> SparseWeights:
    none = (torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int16))
    places = torch.cat([none[0], *(found for held in kinds.values() for found, _ in held)])
    weights = torch.cat([none[1], *(found for held in kinds.values() for _, found in held)])
    sizes = torch.tensor([sum(len(found) for found, _ in held) for held in kinds.values()], dtype=torch.int64)
    filters, channels, rows, cols = places.unbind(1)
    kind = torch.repeat_interleave(torch.arange(len(kinds)), sizes)
    return SparseWeights(tuple(kinds), filters, channels, rows * columns + cols, kind, weights)
