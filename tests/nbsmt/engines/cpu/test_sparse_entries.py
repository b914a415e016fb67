"""Entries of slices: which weights share one, and that nothing is lost."""

import numpy as np
import pytest
import torch

from bnrecal.nbsmt.decompose.dense_sparse import DenseShare, decompose_weights
from bnrecal.nbsmt.engines.cpu import sparse_entries
from bnrecal.nbsmt.engines.cpu.channel_planes import plan_layout
from bnrecal.nbsmt.engines.cpu.kernels import instructions
from bnrecal.nbsmt.engines.cpu.kernels.instructions import Products
from bnrecal.nbsmt.engines.cpu.kernels.slice_operands import PAIRS, SINGLES, SLICE_PLANES
from bnrecal.nbsmt.engines.cpu.sparse_entries import ChannelEntries, Layer, SliceEntries, number_entries
from bnrecal.nbsmt.engines.cpu.sparse_layout import FILTERS, LEAST_FILTERS, _filters_of_a_unit
from bnrecal.nbsmt.geometry import pointwise
from bnrecal.nbsmt.spec import SmtSpec


def entries_of(slice_weights: list[int], policy: str = "A") -> SliceEntries | ChannelEntries:
    """One filter of a 1x1 kernel over one slice."""
    w = torch.tensor(slice_weights, dtype=torch.int8).view(1, 4, 1, 1)
    sparse = decompose_weights(w, SmtSpec(4, policy), paired=False, dense=DenseShare.NONE).sparse
    entries = number_entries(sparse, Layer(4, 4, 1, 1), plan_layout(1, (3, 3), (1, 1), pointwise(1)))
    assert isinstance(entries, SliceEntries | ChannelEntries)
    return entries


def two_bytes(weights: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[tuple[int, ...]]:
    return [tuple(pair) for pair in weights.astype(np.uint16).view(np.int8).reshape(-1, 2).tolist()]


@pytest.mark.parametrize(
    ("weights", "places", "pairs"),
    [
        # channels 1 and 2 have only each other: one entry of their plane among the singles (without VNNI too, as
        # they add up to 128 at most)
        ([0, 40, 50, 0], [12 + 1], [(40, 50)]),
        ([60, 0, 0, 68], [12 + 3], [(68, 60)]),
        ([0, -7, 0, 9], [12 + 5], [(-7, 9)]),
        # alone: the activation as it is, two channels to a plane
        ([0, 0, 0, 5], [12 + 7], [(0, 5)]),
        ([5, 0, 0, 0], [12 + 6], [(5, 0)]),
    ],
)
def test_weights_that_have_only_each_other_share_an_entry(
    weights: list[int], places: list[int], pairs: list[tuple[int, int]]
) -> None:
    entries = entries_of(weights)
    assert (entries.plane % len(SLICE_PLANES)).tolist() == places
    assert two_bytes(entries.weights) == pairs
    # the set is made as a whole
    assert entries.planes().tolist() == list(range(12, 20))


def test_products_that_leave_16_bits_share_an_entry_with_vnni_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for vnni, weights, count in (
        (True, [0, 127, 127, 0], 1),
        (False, [0, 127, 127, 0], 2),
        (False, [0, 64, 64, 0], 1),
        (False, [0, 64, 65, 0], 2),
        (False, [0, -128, 127, 0], 1),
    ):
        monkeypatch.setattr(sparse_entries, "HAS_VNNI", vnni)
        found = entries_of(weights)
        assert len(found.plane) == count
        both = np.array(two_bytes(found.weights)).sum(0)
        assert both.tolist() == weights[1:3]


def test_operands_that_no_slice_has_go_channel_by_channel() -> None:
    assert isinstance(entries_of([9, 0, 9, 9]), SliceEntries)
    assert isinstance(entries_of([9, 0, 9, 9], "aW"), ChannelEntries)


def test_every_pattern_of_every_channel_has_its_plane() -> None:
    # main and extra of each pattern of two and of all; of lesser ones main alone: 2 * 4 * 4 + 4 * 4 sides
    sides = [side for plane in SLICE_PLANES for side in plane]
    assert len(set(sides)) == len(sides) == 48
    assert {side.operand.pattern for plane in SINGLES for side in plane} == {0, 1, 2, 4}
    assert {side.operand.pattern for plane in PAIRS for side in plane} == {3, 5, 6}


def test_the_last_unit_has_filters_enough_to_finish_together() -> None:
    for filters in (1, 8, 511, 513, 1000, 2048, 16385, 32769, 40001):
        unit = _filters_of_a_unit(filters)
        assert LEAST_FILTERS <= unit <= max(FILTERS, LEAST_FILTERS)
        assert filters <= unit or filters % unit == 0 or filters % unit >= LEAST_FILTERS


@pytest.mark.parametrize(
    ("features", "products"),
    [
        ("", Products.PLAIN),
        ("-avx512vnni,+avx2", Products.AVX2),
        ("+avx2,+avx512bw", Products.AVX2),
        ("+avx2,+avxvnni", Products.VNNI_256),
        ("+avx2,+avx512vl,+avx512vnni", Products.VNNI_256),
        ("+avx2,+avx512vl,+avx512bw,+avx512vnni", Products.VNNI_512),
    ],
)
def test_instructions_follow_what_numba_may_use(
    features: str, products: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instructions, "processor", lambda: ("some", features))
    assert instructions._products(instructions._features()) is products
