"""NB-SMT as a short dense convolution and sparse weights (docs/nbsmt.md derives it).

Nearly every weight of a real network has the full pattern: none of its partners' weights is zero. Its operands are the
input channels of a dense convolution. Every other weight is a sparse one, (filter, channel, tap) with its own operands,
and so is what the dense convolution cannot hold.

Dense channels stand in pairs. oneDNN without VNNI adds the products of channels 2i and 2i + 1 in 16 bits:
255 * (|b| + |b'|) must stay below 2^15, that is |b| + |b'| <= 128 where both have one sign. Under policy A the two
operands of a channel are such a pair, r(a) * b + r(a) * e(b) with b + e(b) = r(b), which fits as it is.
"""

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
        kinds: pairs of operands that entries multiply.
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
        operands: of the dense channels, empty where every weight is sparse. The first two alternate channel by channel,
            then the third and fourth, and so on; an odd last one follows channel after channel.
        weight: int8 (O, len(operands) * C, kh, kw), None without operands.
        sparse: the rest.
    """

    operands: tuple[Operand, ...]
    weight: Tensor | None
    sparse: SparseWeights

    @property
    def plain(self) -> bool:
        """True where the dense channels are the activations as they are."""
        return self.operands == (ACTIVATION,)


class DenseShare(Enum):
    """The weights that the dense channels hold."""

    NONE = "none"  # no weight: all are sparse
    FULL = "full"  # those of the full pattern
    # those of every pattern; of a single operand, neighbours that are always zero leave pairs nothing beyond 16 bits
    ALL = "all"


def decompose_weights(w: Tensor, spec: SmtSpec, *, paired: bool, dense: DenseShare = DenseShare.FULL) -> DenseSparse:
    """Divide a layer's weights.

    Args:
        w: int8 (O, C, kh, kw) with C a multiple of spec.threads; C counts one group's channels.
        spec: with saturated operands: 256 and 128 do not fit.
        paired: the dense part adds pairs of channels in 16 bits.
        dense: which weights are dense.
    """
    builder = _SparseBuilder(w, spec)
    patterns = weight_patterns(w, spec)
    present = torch.unique(patterns).tolist()
    dense_patterns = _dense_patterns(dense, present, full_pattern(spec.threads))
    operands: tuple[Operand, ...] = ()
    weight = None
    if dense_patterns:
        operands, weight = _dense_part(w, spec, {pattern: patterns == pattern for pattern in dense_patterns})
        if dense is DenseShare.ALL and len(operands) == 1:
            operands = (*operands, NOTHING)
            weight = torch.stack([weight, torch.zeros_like(weight)], 2).flatten(1, 2)
        if paired:
            excess = builder.add_excess(operands, weight)
            weight = weight - excess
        weight = weight.to(torch.int8)
    for pattern in present:
        if pattern not in dense_patterns:
            builder.add_pattern(pattern, ((patterns == pattern) & (w != 0)).nonzero())
    return DenseSparse(operands, weight, builder.finish())


def _dense_patterns(dense: DenseShare, present: list[int], full: int) -> list[int]:
    """Return the patterns whose weights are dense, the fullest first."""
    if dense is DenseShare.NONE:
        return []
    if dense is DenseShare.FULL:
        return [full]
    return sorted({full, *present}, reverse=True)


def _dense_part(w: Tensor, spec: SmtSpec, places: dict[int, Tensor]) -> tuple[tuple[Operand, ...], Tensor]:
    """Return the operands of these patterns, and int16 (O, len * C, kh, kw) in their order.

    Args:
        places: of each pattern, where weights have it, bool (O, C, kh, kw).
    """
    parts = weight_parts(w, spec)
    weights: dict[Operand, Tensor] = {}
    for pattern, where in places.items():
        for operand, names in operands_of(pattern, spec).items():
            factor = weight_for(parts, names) * where
            weights[operand] = weights[operand] + factor if operand in weights else factor
    used = {operand: weight for operand, weight in weights.items() if weight.any()}
    used = used or {ACTIVATION: torch.zeros_like(parts["b"])}
    in_order = list(used.values())
    # Two operands alternate channel by channel: (O, C, 2, kh, kw) to (O, 2 * C, kh, kw).
    blocks = [torch.stack(in_order[i : i + 2], 2).flatten(1, 2) for i in range(0, len(in_order), 2)]
    return tuple(used), torch.cat(blocks, 1)


class _SparseBuilder:
    """Entries gathered one after the other: of pairs of operands, and of single ones."""

    def __init__(self, w: Tensor, spec: SmtSpec) -> None:
        self.w = w
        self.spec = spec
        self.pairs: dict[Kind, list[tuple[Tensor, Tensor]]] = {}
        self.singles: dict[Operand, list[tuple[Tensor, Tensor]]] = {}

    def add_pattern(self, pattern: int, places: Tensor) -> None:
        """Add the weights at `places`, int64 (n, 4), which all have this pattern."""
        if not len(places):
            return
        parts = weight_parts(self.w[tuple(places.T)], self.spec)
        products = [(operand, weight_for(parts, names)) for operand, names in operands_of(pattern, self.spec).items()]
        for first, second in zip(products[::2], products[1::2], strict=False):
            self._add_pair((first[0], second[0]), places, first[1], second[1])
        if len(products) % 2:
            self._add_single(products[-1][0], places, products[-1][1])

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

    def add_excess(self, operands: tuple[Operand, ...], weight: Tensor) -> Tensor:
        """Add as entries what pairs of dense weights have beyond 16 bits.

        Example: weights 100 and 90 of one pair are 62 above 128. The larger gives: 38 stays dense, and 62 becomes an
        entry of its operand. -100 and 90 have two signs, and stay.

        Args:
            weight: int16 (O, len(operands) * C, kh, kw).

        Returns:
            int16, shaped as `weight`: what to take off the dense weights.
        """
        channels = self.w.shape[1]
        taken = torch.zeros_like(weight)
        # Operands two by two, as their channels alternate: at most 2 * C channels at a time.
        for at in range(0, len(operands), 2):
            couple = operands[at : at + 2]
            if len(couple) == 2 and couple[0].excludes(couple[1]):
                continue  # one of both is zero whatever the activation
            # (O, len(couple) * C, kh, kw) to (O, pairs, 2, kh, kw); a last channel without a neighbour always fits.
            first = at * channels
            count = len(couple) * channels // 2 * 2
            pairs = weight[:, first : first + count].view(len(weight), -1, 2, *weight.shape[2:])
            excess = _excess(pairs)
            taken[:, first : first + count] = excess.flatten(1, 2)
            # Coordinates of what is not zero, int64 (n, 5): filter, pair, side, row, column.
            coordinates = excess.nonzero()
            if not len(coordinates):
                continue
            filters, pair, side, row, column = coordinates.unbind(1)
            values = excess[filters, pair, side, row, column]
            # Of two alternating operands, dense channel i is channel i // 2 of operand i % 2.
            index = 2 * pair + side
            places = torch.stack([filters, index // len(couple), row, column], 1)
            for which, operand in enumerate(couple):
                of_operand = index % len(couple) == which
                self._add_single(operand, places[of_operand], values[of_operand])
        return taken

    def finish(self) -> SparseWeights:
        """Return all entries; single operands share a kind two by two."""
        kinds = {kind: list(entries) for kind, entries in self.pairs.items()}
        alone = sorted(self.singles)
        for first, second in zip(alone[::2], [*alone[1::2], NOTHING], strict=False):
            entries = kinds.setdefault((first, second), [])
            for side, operand in enumerate((first, second)):
                for places, weight in self.singles.get(operand, ()):
                    weights = torch.zeros(len(weight), 2, dtype=torch.int16)
                    weights[:, side] = weight
                    entries.append((places, weights))
        return _joined(kinds, self.w.shape[3])


def _excess(pairs: Tensor) -> Tensor:
    """Return int16, shaped as pairs (O, pairs, 2, kh, kw): what the larger of two of one sign is over the limit."""
    magnitude = pairs.abs()
    one_sign = (pairs[:, :, :1] ^ pairs[:, :, 1:]) >= 0
    over = (magnitude.sum(2, keepdim=True, dtype=torch.int16) - PAIR_LIMIT).clamp_(min=0) * one_sign
    first_larger = magnitude[:, :, :1] >= magnitude[:, :, 1:]
    return torch.cat([over * first_larger, over * ~first_larger], 2) * pairs.sign()


def _joined(kinds: dict[Kind, list[tuple[Tensor, Tensor]]], columns: int) -> SparseWeights:
    """Return the entries of all kinds, one kind after the other; `columns` of a kernel count its taps."""
    all_places = [torch.zeros(0, 4, dtype=torch.int64)]
    all_weights = [torch.zeros(0, 2, dtype=torch.int16)]
    sizes = []
    for entries in kinds.values():
        all_places += [places for places, _ in entries]
        all_weights += [weights for _, weights in entries]
        sizes.append(sum(len(places) for places, _ in entries))
    filters, channels, rows, cols = torch.cat(all_places).unbind(1)
    kind = torch.repeat_interleave(torch.arange(len(kinds)), torch.tensor(sizes, dtype=torch.int64))
    return SparseWeights(tuple(kinds), filters, channels, rows * columns + cols, kind, torch.cat(all_weights))
