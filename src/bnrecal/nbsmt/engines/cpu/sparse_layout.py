"""A list of weights, laid out for the list kernel and one shape of input."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bnrecal.nbsmt.decompose.dense_sparse import SparseWeights
from bnrecal.nbsmt.engines.cpu.kernels import operand_select
from bnrecal.nbsmt.engines.cpu.kernels.channel_planes import Ints, PlaneLayout
from bnrecal.nbsmt.engines.cpu.kernels.simd_i32 import I32X64_BYTES
from bnrecal.nbsmt.engines.cpu.kernels.sparse import BLOCK, ENTRY, PLACES_BYTES, SOURCE

Records = np.ndarray[Any, np.dtype[np.void]]
STRIP = 128  # positions; 64 where there is one tap, so that no position is made twice
# Planes of operands that one block of channels may have: they are to stay in the first-level cache with one tap's
# overlap. More channels a block means fewer passes over the sums.
PLANES_BYTES = 24576
LEAST_FILTERS = 8  # that the kernel finishes together
FILTERS = 512  # at a time: their sums are to stay in the second-level cache


@dataclass(frozen=True, eq=False)
class Layer:
    """What the plan needs to know of a convolution: NB-SMT's threads, channels of a group, filters, groups."""

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
        self.layer, self.layout = layer, layout
        taps, reach = sparse.taps.numpy(), 0
        if len(taps):
            reach = int(layout.offsets[taps].max())
        self.strip = STRIP if reach else 64
        self.length = -(-(self.strip + reach) // 64) * 64
        chunks = -(-layer.filters // FILTERS)
        self.chunk = -(-layer.filters // chunks // 8) * 8 if chunks > 1 else max(layer.filters, LEAST_FILTERS)
        self.table = operand_select.operand_table(operand for kind in sparse.kinds for operand in kind)
        entries = _Entries(sparse, layer, layout)
        planes, plane_of_entry = np.unique(entries.plane, return_inverse=True)
        block_of_slice = self._divide(planes, entries)
        order = np.lexsort((planes, block_of_slice[entries.slice_of_plane(planes)]))
        self._list_planes(planes[order], block_of_slice, entries)
        place = np.empty(len(planes), np.int64)
        block_of_plane = block_of_slice[entries.slice_of_plane(planes[order])]
        place[order] = np.arange(len(planes)) - self.blocks["first_plane"].astype(np.int64)[block_of_plane]
        first = 2 * (place[plane_of_entry.reshape(-1)] * self.length + layout.offsets[taps])
        self._list_entries(first, block_of_slice[entries.slice], entries)

    @property
    def scratch_bytes(self) -> int:
        """Of one worker."""
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
        """One pixel of all filters."""
        return -(-4 * self.layer.filters // I32X64_BYTES) * I32X64_BYTES

    @property
    def sums_bytes(self) -> int:
        return 4 * self.strip * -(-self.chunk // 8) * 8

    def _divide(self, planes: Ints, entries: "_Entries") -> Ints:
        """The block of every slice (a channel and its partners): of one group, as many as fit."""
        slices, per_group = entries.slices, entries.part
        counts = np.bincount(entries.slice_of_plane(planes), minlength=slices)
        limit = max(1, PLANES_BYTES // (2 * self.length))
        blocks, block, held = np.zeros(slices, np.int64), -1, 0
        for index, count in enumerate(counts.tolist()):
            if index % per_group == 0 or held + count > limit:
                block, held = block + 1, 0
            blocks[index], held = block, held + count
        return blocks

    def _list_planes(self, planes: Ints, block_of_slice: Ints, entries: "_Entries") -> None:
        """Blocks, sources and kinds of the planes in their order."""
        layer, count = self.layer, int(block_of_slice[-1]) + 1
        block = block_of_slice[entries.slice_of_plane(planes)]
        first_plane = np.searchsorted(block, np.arange(count + 1))
        source = planes // entries.kinds  # a channel in a phase
        starts = np.flatnonzero(np.diff(source, prepend=-1))
        self.sources = np.zeros(len(starts), SOURCE)
        own, self.sources["phase"] = divmod(source[starts], entries.phases)
        group, channel = divmod(own, layer.channels)
        self.sources["own"] = own
        for r in (1, 2, 3):
            partner = (channel + r % layer.threads * entries.part) % layer.channels
            self.sources[f"partner{r}"] = group * layer.channels + partner
        self.sources["first_plane"], self.sources["end_plane"] = (
            starts,
            np.append(starts[1:], len(planes))[: len(starts)],
        )
        kind = planes % entries.kinds
        self.kinds = np.stack([2 * kind, 2 * kind + 1], 1).astype(np.uint32)
        self.planes_bytes = int(np.diff(first_plane).max(initial=0)) * 2 * self.length
        self.blocks = np.zeros(count, BLOCK)
        of_source = block[starts]
        self.blocks["first_source"] = np.searchsorted(of_source, np.arange(count))
        self.blocks["end_source"] = np.searchsorted(of_source, np.arange(count), side="right")
        self.blocks["first_plane"] = first_plane[:-1]
        filters = layer.filters // layer.groups
        of_block = np.zeros(count, np.int64)
        of_block[block_of_slice] = np.arange(entries.slices) // entries.part
        self.blocks["first_filter"], self.blocks["end_filter"] = of_block * filters, (of_block + 1) * filters
        self.blocks["first_start"] = np.arange(count) * filters
        self.blocks["fresh"][0] = layer.groups == 1

    def _list_entries(self, first: Ints, block: Ints, entries: "_Entries") -> None:
        """Two weights of one filter and block together."""
        filters = self.layer.filters // self.layer.groups
        segment = block * filters + entries.filters % filters
        order = np.lexsort((first, segment))
        segment, first, weights = segment[order], first[order], entries.weights[order]
        counts = np.bincount(segment, minlength=len(self.blocks) * filters)
        self.starts = np.append(0, np.cumsum((counts + 1) // 2)).astype(np.uint32)
        rank = np.arange(len(segment)) - np.append(0, np.cumsum(counts))[segment]
        at, second = self.starts[segment] + rank // 2, rank % 2 == 1
        self.entries = np.zeros(int(self.starts[-1]), ENTRY)
        self.entries["first"][at[~second]] = self.entries["second"][at[~second]] = first[~second]
        self.entries["weights"][at[~second]] = weights[~second]
        self.entries["second"][at[second]] = first[second]
        self.entries["weights"][at[second]] |= (weights[second] << 16).astype(np.uint32)


class _Entries:
    """Entries as numbers to sort: a plane is a channel, a phase and a kind; a slice is a channel with its partners."""

    def __init__(self, sparse: SparseWeights, layer: Layer, layout: PlaneLayout) -> None:
        self.phases, self.kinds = int(layout.phases.max()) + 1, max(1, len(sparse.kinds))
        self.channels, self.part = layer.channels, layer.channels // layer.threads
        self.slices = layer.groups * self.part
        self.filters, channels = sparse.filters.numpy(), sparse.channels.numpy()
        group = self.filters // (layer.filters // layer.groups)
        own = group * layer.channels + channels
        self.slice = group * self.part + channels % self.part
        self.plane = (own * self.phases + layout.phases[sparse.taps.numpy()]) * self.kinds + sparse.kind.numpy()
        weights = sparse.weights.numpy().astype(np.int64) & 255
        self.weights = weights[:, 0] | weights[:, 1] << 8

    def slice_of_plane(self, planes: Ints) -> Ints:
        group, channel = divmod(planes // self.kinds // self.phases, self.channels)
        return np.asarray(group * self.part + channel % self.part, np.int64)
