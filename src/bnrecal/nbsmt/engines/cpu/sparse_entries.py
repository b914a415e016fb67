"""Sparse weights as entries: which planes of operands they multiply, as numbers to sort by.

There are two ways to number planes. Any policy goes *channel by channel* (`ChannelEntries`): a plane is a channel, a
phase and a kind, a pair of operands of that channel. Policy A at four threads goes *slice by slice* (`SliceEntries`): a
plane is four partner channels, a phase and one of the 24 planes of `kernels/slice_operands.py`, which also hold two
channels' operands side by side.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np

from bnrecal.nbsmt.decompose.dense_sparse import PAIR_LIMIT, SparseWeights
from bnrecal.nbsmt.decompose.operands import ACTIVATION, NOTHING, Operand
from bnrecal.nbsmt.engines.cpu.channel_planes import Ints, PlaneLayout
from bnrecal.nbsmt.engines.cpu.kernels.instructions import HAS_VNNI
from bnrecal.nbsmt.engines.cpu.kernels.slice_operands import CHANNELS, SETS, SLICE_PLANES
from bnrecal.nbsmt.engines.cpu.kernels.sparse import SET, SOURCE

Records = np.ndarray[Any, np.dtype[np.void]]
_BOUNDS = [0, *accumulate(len(planes) for planes in SETS)]  # of the sets in `SLICE_PLANES`
PLAIN = (ACTIVATION, NOTHING)  # a kind: the activations as they are, each beside a zero


@dataclass(frozen=True, eq=False)
class Layer:
    """The numbers of a convolution that a layout depends on: NB-SMT's threads, channels of a group, filters, groups."""

    threads: int
    channels: int
    filters: int
    groups: int

    @property
    def part(self) -> int:
        """Channels of a thread, and so slices of a group."""
        return self.channels // self.threads

    @property
    def slices(self) -> int:
        """Slices of all groups."""
        return self.groups * self.part


@dataclass(frozen=True, eq=False)
class PlaneRecords:
    """Records that the kernel makes planes from.

    Attributes:
        sets, sources: the kernel's SETs and SOURCEs.
        kinds: uint32 (planes, 2), rows of the table of operands, where there are sources.
    """

    sets: Records
    sources: Records
    kinds: "np.ndarray[Any, np.dtype[np.uint32]]"


class Entries(Protocol):
    """Entries of one layer, in no order.

    Attributes:
        filters, taps: int64 (entries,).
        slice: int64 (entries,), group * part + channel % part.
        plane: int64 (entries,), a number that `slice_of_plane` and the records below understand.
        weights: int64 (entries,), two int8 in the low 16 bits.
        plain: True where every plane holds the activations as they are.
    """

    filters: Ints
    taps: Ints
    slice: Ints
    plane: Ints
    weights: Ints
    plain: bool

    def planes(self) -> Ints:
        """Return the numbers of the planes to make, each once, ascending."""

    def slice_of_plane(self, planes: Ints) -> Ints:
        """Return int64 (planes,), the slice of each."""

    def records(self, planes: Ints) -> PlaneRecords:
        """Return what makes these planes in their order."""


def number_entries(sparse: SparseWeights, layer: Layer, layout: PlaneLayout) -> Entries:
    """Return the entries by slices where these have all operands, else by channels."""
    operands = {operand for kind in sparse.kinds for operand in kind if operand != NOTHING}
    of_slices = {side.operand for plane in SLICE_PLANES for side in plane}
    if layer.threads == CHANNELS and operands <= of_slices:
        return SliceEntries(sparse, layer, layout)
    return ChannelEntries(sparse, layer, layout)


class ChannelEntries:
    """Entries whose plane is (channel over all groups * phases + phase) * kinds + kind."""

    def __init__(self, sparse: SparseWeights, layer: Layer, layout: PlaneLayout) -> None:
        self.layer = layer
        self.phases = int(layout.phases.max()) + 1
        self.count = max(1, len(sparse.kinds))
        self.filters = sparse.filters.numpy()
        self.taps = sparse.taps.numpy()
        channels = sparse.channels.numpy()
        group = self.filters // (layer.filters // layer.groups)
        own = group * layer.channels + channels
        self.slice = group * layer.part + channels % layer.part
        self.plane = (own * self.phases + layout.phases[self.taps]) * self.count + sparse.kind.numpy()
        weights = sparse.weights.numpy().astype(np.int64) & 255
        self.weights = weights[:, 0] | weights[:, 1] << 8
        self.plain = sparse.kinds == (PLAIN,)

    def planes(self) -> Ints:
        return np.unique(self.plane)

    def slice_of_plane(self, planes: Ints) -> Ints:
        group, channel = divmod(planes // self.count // self.phases, self.layer.channels)
        return np.asarray(group * self.layer.part + channel % self.layer.part, np.int64)

    def records(self, planes: Ints) -> PlaneRecords:
        layer = self.layer
        # A source is a run of planes with one channel and phase: 1 where the number without its kind changes.
        # Planes 6, 7 and 9 of two kinds have sources 3, 3 and 4: runs start at [0, 2] and end at [2, 3].
        source = planes // self.count
        starts = np.flatnonzero(np.diff(source, prepend=-1))
        own, phase = divmod(source[starts], self.phases)
        group, channel = divmod(own, layer.channels)
        sources = np.zeros(len(starts), SOURCE)
        sources["own"] = own
        sources["phase"] = phase
        for r in (1, 2, 3):
            partner = (channel + r % layer.threads * layer.part) % layer.channels
            sources[f"partner{r}"] = group * layer.channels + partner
        sources["first_plane"] = starts
        sources["end_plane"] = np.append(starts[1:], len(planes))[: len(starts)]
        # A kind is two operands, rows 2 * kind and 2 * kind + 1 of the table.
        kind = planes % self.count
        kinds = np.stack([2 * kind, 2 * kind + 1], 1).astype(np.uint32)
        return PlaneRecords(np.zeros(0, SET), sources, kinds)


class SliceEntries:
    """Entries whose plane is (slice * phases + phase) * 24 + its place in `SLICE_PLANES`.

    Weights that multiply the two sides of one plane at one tap share an entry. Without VNNI their products are added in
    16 bits, where they must fit.
    """

    plain = False

    def __init__(self, sparse: SparseWeights, layer: Layer, layout: PlaneLayout) -> None:
        self.layer = layer
        self.phases = int(layout.phases.max()) + 1
        products = _products(sparse, layer)
        joined = products.joined_with_next()
        first = np.append(True, ~joined[:-1]) if len(joined) else joined  # every product but the second of two
        second = np.flatnonzero(joined) + 1
        low = np.where(products.half == 0, products.weight & 255, (products.weight & 255) << 8)
        low[np.flatnonzero(joined)] |= low[second]
        self.filters = products.filter[first]
        self.taps = products.tap[first]
        self.slice = products.slice[first]
        phase = layout.phases[self.taps]
        self.plane = (self.slice * self.phases + phase) * len(SLICE_PLANES) + products.place[first]
        self.weights = low[first]

    def planes(self) -> Ints:
        slice_and_phase, place = divmod(np.unique(self.plane), len(SLICE_PLANES))
        every = []
        for first, end in pairwise(_BOUNDS):
            needed = np.unique(slice_and_phase[(place >= first) & (place < end)])
            every.append((needed[:, None] * len(SLICE_PLANES) + np.arange(first, end)).flatten())
        return np.sort(np.concatenate(every))

    def slice_of_plane(self, planes: Ints) -> Ints:
        return np.asarray(planes // len(SLICE_PLANES) // self.phases, np.int64)

    def records(self, planes: Ints) -> PlaneRecords:
        slice_and_phase, place = divmod(planes, len(SLICE_PLANES))
        starts = np.flatnonzero(np.isin(place, _BOUNDS[:-1]))
        slices, phase = divmod(slice_and_phase[starts], self.phases)
        group, channel = divmod(slices, self.layer.part)
        sets = np.zeros(len(starts), SET)
        sets["own"] = group * self.layer.channels + channel
        sets["phase"] = phase
        sets["which"] = np.searchsorted(_BOUNDS, place[starts])
        sets["first_plane"] = starts
        return PlaneRecords(sets, np.zeros(0, SOURCE), np.zeros((0, 2), np.uint32))


@dataclass(frozen=True, eq=False)
class _Products:
    """Single products, sorted so that those of one filter, slice, tap and plane stand together, its first side first.

    All int64 (products,); `place` is the plane's in `SLICE_PLANES`, `half` its side, `weight` an int8.
    """

    filter: Ints
    slice: Ints
    tap: Ints
    place: Ints
    half: Ints
    weight: Ints

    def joined_with_next(self) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Return bool (products,), whether a product and its successor are both sides of one plane, and fit."""
        joined = np.zeros(len(self.filter), np.bool_)
        together = (self.half[:-1] == 0) & (self.half[1:] == 1)
        for number in (self.filter, self.slice, self.tap, self.place):
            together &= number[:-1] == number[1:]
        if not HAS_VNNI:
            a = self.weight[:-1]
            b = self.weight[1:]
            together &= ((a ^ b) < 0) | (np.abs(a) + np.abs(b) <= PAIR_LIMIT)
        joined[:-1] = together
        return joined


def _products(sparse: SparseWeights, layer: Layer) -> _Products:
    """Take entries apart into single products."""
    weights = sparse.weights.numpy().astype(np.int64)
    entry, side = weights.nonzero()  # of every product
    place, half = _places(sparse.kinds, sparse.kind.numpy()[entry], side, sparse.channels.numpy()[entry], layer)
    filters = sparse.filters.numpy()[entry]
    slices = filters // (layer.filters // layer.groups) * layer.part + sparse.channels.numpy()[entry] % layer.part
    taps = sparse.taps.numpy()[entry]
    # One number for all, which sorts quicker than five; below 2^63 by far.
    number = (filters * layer.slices + slices) * (taps.max(initial=0) + 1) + taps
    order = np.argsort((number * len(SLICE_PLANES) + place) * 2 + half, kind="stable")
    return _Products(filters[order], slices[order], taps[order], place[order], half[order], weights[entry, side][order])


def _places(
    kinds: tuple[tuple[Operand, Operand], ...], kind: Ints, side: Ints, channels: Ints, layer: Layer
) -> tuple[Ints, Ints]:
    """Return for each product the place in `SLICE_PLANES` and the side of its operand."""
    table = np.full((len(kinds), 2, CHANNELS, 2), -1)
    for place, plane in enumerate(SLICE_PLANES):
        for half, own in enumerate(plane):
            for number, pair in enumerate(kinds):
                for which, operand in enumerate(pair):
                    if operand == own.operand:
                        table[number, which, own.channel] = place, half
    found = table[kind, side, channels // layer.part]
    return found[:, 0], found[:, 1]
