"""Sparse weights, laid out for the sparse kernel and one shape of input.

The kernel works through *blocks* of channels. For each it makes *planes* of operands, then adds up the block's
*entries*, filter by filter. The passes below sort weights into that order. Their example, with T = 2 and C = 4:

    thread 0 owns channels 0 and 1, thread 1 channels 2 and 3; channels c and c + 2 are partners
    slice 0 = channels 0 and 2, slice 1 = channels 1 and 3: a channel with its partners, read together
    one phase (stride 1), one kind of operands; three weights, of filter 0 at channel 3 and of filters 0 and 1 at 0

    plane of each weight   entries.plane = [3, 0, 0]          a number for (channel, phase, kind)
    planes in use          planes = [0, 3], plane_of_entry = [1, 0, 0]
    their slices           [0, 1]; with room for both, block_of_slice = [0, 0]
    order in the cache     order = [0, 1]: by block, then by number; place = [0, 1]
"""

from dataclasses import dataclass

import numpy as np

from bnrecal.nbsmt.decompose.dense_sparse import SparseWeights
from bnrecal.nbsmt.engines.cpu.channel_planes import Ints, PlaneLayout
from bnrecal.nbsmt.engines.cpu.kernels import operand_select
from bnrecal.nbsmt.engines.cpu.kernels.simd_i32 import I32X64_BYTES
from bnrecal.nbsmt.engines.cpu.kernels.sparse import BLOCK, ENTRY, PLACES_BYTES, SOURCE

STRIP = 128  # positions; 64 where there is one tap, so that no position is made twice
# Planes of operands that one block of channels may have: they are to stay in the first-level cache with one tap's
# overlap. More channels a block means fewer passes over the sums.
PLANES_BYTES = 24576
LEAST_FILTERS = 8  # that the kernel finishes together
FILTERS = 512  # at a time: their sums are to stay in the second-level cache


@dataclass(frozen=True, eq=False)
class Layer:
    """The numbers of a convolution that a layout depends on: NB-SMT's threads, channels of a group, filters, groups."""

    threads: int
    channels: int
    filters: int
    groups: int


class SparseLayout:
    """The arrays of a kernel's args that depend on weights and shape.

    Attributes:
        strip, length: positions of a unit, and of the planes of operands that it needs.
        chunk: filters of a unit.
        blocks, sources, kinds, entries, starts: as the kernel takes them.
        planes_bytes: of the largest block.
    """

    def __init__(self, sparse: SparseWeights, layer: Layer, layout: PlaneLayout) -> None:
        self.layer = layer
        self.layout = layout
        taps = sparse.taps.numpy()
        reach = int(layout.offsets[taps].max()) if len(taps) else 0
        self.strip = STRIP if reach else 64
        self.length = -(-(self.strip + reach) // 64) * 64
        self.chunk = _filters_of_a_unit(layer.filters)
        self.operands = [operand for kind in sparse.kinds for operand in kind]
        self.table = operand_select.operand_table(self.operands)

        entries = _Entries(sparse, layer, layout)
        # Each plane once, by its number: (planes,), and for each entry which of them is its own.
        planes, plane_of_entry = np.unique(entries.plane, return_inverse=True)
        block_of_slice = self._divide(planes, entries)
        # The planes in the order in which the kernel makes them: by block, within a block by number.
        order = np.lexsort((planes, block_of_slice[entries.slice_of_plane(planes)]))
        in_order = planes[order]
        block_of_plane = block_of_slice[entries.slice_of_plane(in_order)]
        self._set_planes(in_order, block_of_plane, block_of_slice, entries)
        # Where each plane lies among those of its block: its rank in the order, less the block's first.
        rank = np.arange(len(planes))
        place = np.empty(len(planes), np.int64)
        place[order] = rank - self.blocks["first_plane"].astype(np.int64)[block_of_plane]
        # The byte, among the block's planes of `length` pairs, at which an entry's first position lies.
        first = 2 * (place[plane_of_entry.reshape(-1)] * self.length + layout.offsets[taps])
        self._set_entries(first, block_of_slice[entries.slice], entries)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of one worker."""
        sizes = (
            operand_select.SCRATCH_BYTES,
            PLACES_BYTES,
            2 * self.spare_bytes,
            self.sums_bytes,
            self.planes_bytes,
            256,
        )
        return -(-sum(sizes) // 64) * 64

    @property
    def spare_bytes(self) -> int:
        """Bytes of one pixel of all filters."""
        return -(-4 * self.layer.filters // I32X64_BYTES) * I32X64_BYTES

    @property
    def sums_bytes(self) -> int:
        """Bytes of a unit's sums."""
        return 4 * self.strip * -(-self.chunk // 8) * 8

    def _divide(self, planes: Ints, entries: "_Entries") -> Ints:
        """Return int64 (slices,), the block of every slice: as many slices of one group as fit.

        Example: planes of 384 bytes, so that 64 fit; slices of 40, 20 and 10 planes make blocks [0, 0, 1].
        """
        counts = np.bincount(entries.slice_of_plane(planes), minlength=entries.slices)
        limit = max(1, PLANES_BYTES // (2 * self.length))
        blocks = np.zeros(entries.slices, np.int64)
        block = -1
        used = 0
        for index, count in enumerate(counts.tolist()):
            begins_group = index % entries.part == 0
            if begins_group or used + count > limit:
                block += 1
                used = 0
            blocks[index] = block
            used += count
        return blocks

    def _set_planes(self, planes: Ints, block: Ints, block_of_slice: Ints, entries: "_Entries") -> None:
        """Set blocks, sources and kinds.

        Args:
            planes: int64 (planes,), their numbers in order.
            block: int64 (planes,), the block of each.
        """
        layer = self.layer
        # A source is a run of planes with one channel and phase: 1 where the number without its kind changes.
        # Planes 6, 7 and 9 of two kinds have sources 3, 3 and 4: runs start at [0, 2] and end at [2, 3].
        source = planes // entries.kinds
        starts = np.flatnonzero(np.diff(source, prepend=-1))
        ends = np.append(starts[1:], len(planes))[: len(starts)]
        own, phase = divmod(source[starts], entries.phases)
        group, channel = divmod(own, layer.channels)
        self.sources = np.zeros(len(starts), SOURCE)
        self.sources["own"] = own
        self.sources["phase"] = phase
        for r in (1, 2, 3):
            partner = (channel + r % layer.threads * entries.part) % layer.channels
            self.sources[f"partner{r}"] = group * layer.channels + partner
        self.sources["first_plane"] = starts
        self.sources["end_plane"] = ends
        # A kind is two operands, rows 2 * kind and 2 * kind + 1 of the table.
        kind = planes % entries.kinds
        self.kinds = np.stack([2 * kind, 2 * kind + 1], 1).astype(np.uint32)
        self._set_blocks(block, block[starts], block_of_slice, entries)

    def _set_blocks(self, of_plane: Ints, of_source: Ints, block_of_slice: Ints, entries: "_Entries") -> None:
        """Set blocks; `of_plane` and `of_source`, int64, ascend: the block of each plane and of each source."""
        count = int(block_of_slice[-1]) + 1
        numbers = np.arange(count)
        # In ascending numbers a block begins where its number could first be put in: of [0, 0, 2] at [0, 2, 2].
        first_plane = np.searchsorted(of_plane, np.arange(count + 1))
        self.planes_bytes = int(np.diff(first_plane).max(initial=0)) * 2 * self.length
        self.blocks = np.zeros(count, BLOCK)
        self.blocks["first_source"] = np.searchsorted(of_source, numbers)
        self.blocks["end_source"] = np.searchsorted(of_source, numbers, side="right")
        self.blocks["first_plane"] = first_plane[:-1]
        filters = self.layer.filters // self.layer.groups
        group = np.zeros(count, np.int64)
        group[block_of_slice] = np.arange(entries.slices) // entries.part
        self.blocks["first_filter"] = group * filters
        self.blocks["end_filter"] = (group + 1) * filters
        self.blocks["first_start"] = numbers * filters
        self.blocks["fresh"][0] = self.layer.groups == 1

    def _set_entries(self, first: Ints, block: Ints, entries: "_Entries") -> None:
        """Set entries and starts: weights of one filter and block two by two.

        Example: one block, filters 0, 0, 0 and 1, with first bytes 8, 2, 4 and 6. Sorted they are 2, 4, 8 | 6, of ranks
        0, 1, 2 | 0: entries (2, 4), (8, and nothing), (6, and nothing), and starts = [0, 2, 3].

        Args:
            first: int64 (weights,), the byte at which the first position of each lies.
            block: int64 (weights,), the block of each.
        """
        filters = self.layer.filters // self.layer.groups
        # A segment is a filter in a block. Sort by segment, within it along the planes.
        segment = block * filters + entries.filters % filters
        order = np.lexsort((first, segment))
        segment = segment[order]
        first = first[order]
        weights = entries.weights[order]
        # How many each segment has, and where its entries of two start.
        counts = np.bincount(segment, minlength=len(self.blocks) * filters)
        self.starts = np.append(0, np.cumsum((counts + 1) // 2)).astype(np.uint32)
        # The rank of a weight in its segment: even ranks are first of an entry, odd ones second.
        rank = np.arange(len(segment)) - np.append(0, np.cumsum(counts))[segment]
        at = self.starts[segment] + rank // 2
        second = rank % 2 == 1
        self.entries = np.zeros(int(self.starts[-1]), ENTRY)
        # Without a second weight, the first one's place stands in: it is read, and multiplied by zero.
        self.entries["first"][at[~second]] = first[~second]
        self.entries["second"][at[~second]] = first[~second]
        self.entries["second"][at[second]] = first[second]
        # Four int8: low half the first weight's two, high half the second's.
        self.entries["weights"][at[~second]] = weights[~second]
        self.entries["weights"][at[second]] |= (weights[second] << 16).astype(np.uint32)


def _filters_of_a_unit(filters: int) -> int:
    """Return as many as fit, in multiples of 8; all where they do."""
    chunks = -(-filters // FILTERS)
    if chunks == 1:
        return max(filters, LEAST_FILTERS)
    return -(-filters // chunks // 8) * 8


class _Entries:
    """Entries as numbers to sort: a plane is a channel, a phase and a kind; a slice is a channel with its partners.

    Attributes:
        phases, kinds: how many there are.
        part: channels of a thread, and so slices of a group.
        filters: int64 (weights,).
        plane: int64 (weights,), (channel over all groups * phases + phase) * kinds + kind.
        slice: int64 (weights,), group * part + channel % part.
        weights: int64 (weights,), two int8 in the low 16 bits.
    """

    def __init__(self, sparse: SparseWeights, layer: Layer, layout: PlaneLayout) -> None:
        self.phases = int(layout.phases.max()) + 1
        self.kinds = max(1, len(sparse.kinds))
        self.channels = layer.channels
        self.part = layer.channels // layer.threads
        self.slices = layer.groups * self.part
        self.filters = sparse.filters.numpy()
        channels = sparse.channels.numpy()
        group = self.filters // (layer.filters // layer.groups)
        own = group * layer.channels + channels
        self.slice = group * self.part + channels % self.part
        self.plane = (own * self.phases + layout.phases[sparse.taps.numpy()]) * self.kinds + sparse.kind.numpy()
        weights = sparse.weights.numpy().astype(np.int64) & 255
        self.weights = weights[:, 0] | weights[:, 1] << 8

    def slice_of_plane(self, planes: Ints) -> Ints:
        """Return int64 (planes,), the slice of each: its number gives the channel over all groups back."""
        group, channel = divmod(planes // self.kinds // self.phases, self.channels)
        return np.asarray(group * self.part + channel % self.part, np.int64)
