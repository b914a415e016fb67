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

import numpy as np

from bnrecal.nbsmt.decompose.dense_sparse import SparseWeights
from bnrecal.nbsmt.engines.cpu.channel_planes import Ints, PlaneLayout
from bnrecal.nbsmt.engines.cpu.kernels import operand_select
from bnrecal.nbsmt.engines.cpu.kernels.instructions import LANES, PRODUCTS, Products
from bnrecal.nbsmt.engines.cpu.kernels.simd_i32 import POSITIONS, POSITIONS_BYTES
from bnrecal.nbsmt.engines.cpu.kernels.sparse import BLOCK, ENTRY, PLACES_BYTES, TILE_BYTES
from bnrecal.nbsmt.engines.cpu.sparse_entries import Entries, Layer, number_entries

WIDE = PRODUCTS is Products.VNNI_512
# Positions of a strip. More of them means less of a plane made twice for neighbouring strips, and longer runs.
STRIP = 256 if WIDE else 128
# Planes of operands that one block of channels may have: they are to stay in a cache with one tap's overlap. More
# channels a block means fewer passes over the sums. Little is lost where planes lie in the second-level cache, but for
# layers of many entries, which read each plane again and again. On an AMD Zen 3 the kernel took with 65,536 bytes 0.87
# to 0.97 of its time with 24,576; other processors without 512-bit VNNI were not tried.
PLANES_BYTES = 131072 if WIDE else 65536
CROWDED = 6  # entries of a filter in a slice from which on a layer is such
CROWDED_STRIP, CROWDED_BYTES = (128, 32768) if WIDE else (STRIP, 24576)
FEW_UNITS = 12  # with fewer of them strips are short as well: else workers wait for the last unit
SUMS_BYTES = 262144  # of a unit at most: they are to stay in the second-level cache
LEAST_FILTERS = LANES  # that the kernel finishes together
FILTERS = 512  # of a unit at most


class SparseLayout:
    """The arrays of a kernel's args that depend on weights and shape.

    Attributes:
        used: positions up to the last one with an output.
        strip, length: positions of a unit, and of the planes of operands that it needs.
        chunk: filters of a unit.
        blocks, sets, sources, kinds, entries, starts: as the kernel takes them.
        operands, table: of all kinds, two of each, and the kernel's records of them.
        planes_bytes: of the largest block.
    """

    def __init__(self, sparse: SparseWeights, layer: Layer, layout: PlaneLayout) -> None:
        self.layer = layer
        self.layout = layout
        self.used = layout.used
        entries = number_entries(sparse, layer, layout)
        reach = int(layout.offsets[entries.taps].max(initial=0))
        self.crowded = len(entries.taps) > CROWDED * layer.filters * layer.part
        self.chunk = _filters_of_a_unit(layer.filters)
        self.strip = self._strip() if reach else POSITIONS  # with one tap no position is made twice
        self.length = -(-(self.strip + reach) // 64) * 64
        self.plain = entries.plain
        self.operands = [operand for kind in sparse.kinds for operand in kind]
        self.table = operand_select.operand_table(self.operands)

        # Each plane once, by its number: (planes,).
        planes = entries.planes()
        block_of_slice = self._divide(planes, entries)
        # The planes in the order in which the kernel makes them: by block, within a block by number.
        order = np.lexsort((planes, block_of_slice[entries.slice_of_plane(planes)]))
        in_order = planes[order]
        block_of_plane = block_of_slice[entries.slice_of_plane(in_order)]
        records = entries.records(in_order)
        self.sets = records.sets
        self.sources = records.sources
        self.kinds = records.kinds
        self._set_blocks(block_of_plane, block_of_slice)
        # Where each plane lies among those of its block: its rank in the order, less the block's first.
        rank = np.arange(len(planes))
        place = np.empty(len(planes), np.int64)
        place[order] = rank - self.blocks["first_plane"].astype(np.int64)[block_of_plane]
        # The byte, among the block's planes of `length` pairs, at which an entry's first position lies.
        plane_of_entry = np.searchsorted(planes, entries.plane)
        first = 2 * (place[plane_of_entry] * self.length + layout.offsets[entries.taps])
        self._set_entries(first, block_of_slice[entries.slice], entries)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of one worker."""
        sizes = (
            operand_select.SCRATCH_BYTES,
            PLACES_BYTES,
            TILE_BYTES,
            2 * self.spare_bytes,
            self.sums_bytes,
            self.planes_bytes,
            256,
        )
        return -(-sum(sizes) // 64) * 64

    @property
    def spare_bytes(self) -> int:
        """Bytes of one pixel of all filters."""
        return -(-4 * self.layer.filters // POSITIONS_BYTES) * POSITIONS_BYTES

    @property
    def sums_bytes(self) -> int:
        """Bytes of a unit's sums."""
        return 4 * self.strip * -(-self.chunk // LANES) * LANES

    def _strip(self) -> int:
        """Return positions of a strip: as many as there are or as fit, in multiples of POSITIONS."""
        units = -(-self.used // STRIP) * -(-self.layer.filters // self.chunk)
        short = self.crowded or units < FEW_UNITS
        fit = min(CROWDED_STRIP if short else STRIP, SUMS_BYTES // (4 * self.chunk))
        return max(1, min(fit, self.used) // POSITIONS) * POSITIONS

    def _divide(self, planes: Ints, entries: Entries) -> Ints:
        """Return int64 (slices,), the block of every slice: as many slices of one group as fit.

        Example: where 64 planes fit, slices of 40, 20 and 10 planes make blocks [0, 0, 1].
        """
        counts = np.bincount(entries.slice_of_plane(planes), minlength=self.layer.slices)
        limit = max(1, (CROWDED_BYTES if self.crowded else PLANES_BYTES) // (2 * self.length))
        blocks = np.zeros(self.layer.slices, np.int64)
        block = -1
        used = 0
        for index, count in enumerate(counts.tolist()):
            begins_group = index % self.layer.part == 0
            if begins_group or used + count > limit:
                block += 1
                used = 0
            blocks[index] = block
            used += count
        return blocks

    def _set_blocks(self, of_plane: Ints, block_of_slice: Ints) -> None:
        """Set blocks; `of_plane`, int64 (planes,), ascends: the block of each plane in order."""
        count = int(block_of_slice[-1]) + 1
        numbers = np.arange(count)
        # In ascending numbers a block begins where its number could first be put in: of [0, 0, 2] at [0, 2, 2].
        first_plane = np.searchsorted(of_plane, np.arange(count + 1))
        self.planes_bytes = int(np.diff(first_plane).max(initial=0)) * 2 * self.length
        self.blocks = np.zeros(count, BLOCK)
        for name, records in (("set", self.sets), ("source", self.sources)):
            of_record = of_plane[records["first_plane"]]
            self.blocks[f"first_{name}"] = np.searchsorted(of_record, numbers)
            self.blocks[f"end_{name}"] = np.searchsorted(of_record, numbers, side="right")
        self.blocks["first_plane"] = first_plane[:-1]
        filters = self.layer.filters // self.layer.groups
        group = np.zeros(count, np.int64)
        group[block_of_slice] = np.arange(self.layer.slices) // self.layer.part
        self.blocks["first_filter"] = group * filters
        self.blocks["end_filter"] = (group + 1) * filters
        self.blocks["first_start"] = numbers * filters
        self.blocks["fresh"][0] = self.layer.groups == 1

    def _set_entries(self, first: Ints, block: Ints, entries: Entries) -> None:
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
    """Return as many as fit, in multiples of LANES; all where they do. The last unit has at least LANES too."""
    chunks = -(-filters // FILTERS)
    if chunks == 1:
        return max(filters, LEAST_FILTERS)
    chunk = -(-filters // chunks // LANES) * LANES
    while 0 < filters % chunk < LEAST_FILTERS:
        chunk -= LANES
    return chunk
