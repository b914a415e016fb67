"""The sparse kernel against a plain convolution of its weights."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import SparseWeights
from bnrecal.nbsmt.decompose.operands import ACTIVATION, NOTHING
from bnrecal.nbsmt.engines.cpu import sparse_layout
from bnrecal.nbsmt.engines.cpu.channel_planes import plan_layout
from bnrecal.nbsmt.engines.cpu.kernels import sparse
from bnrecal.nbsmt.engines.cpu.kernels.runtime import buffer
from bnrecal.nbsmt.engines.cpu.sparse import Inexact, SparseSums
from bnrecal.nbsmt.engines.cpu.sparse_entries import Layer
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec

pytestmark = pytest.mark.skipif(sparse.kernel() is None, reason="numba is switched off")


def all_sparse(w: Tensor) -> SparseWeights:
    """Every non-zero weight (O, C, kh, kw) as an entry of one kind."""
    filters, channels, rows, columns = w.nonzero().unbind(1)
    weights = torch.stack([w[filters, channels, rows, columns], torch.zeros(len(filters))], 1).to(torch.int16)
    taps = rows * w.shape[3] + columns
    return SparseWeights(((ACTIVATION, NOTHING),), filters, channels, taps, torch.zeros_like(filters), weights)


def levels_of(x: Tensor) -> Tensor:
    """uint8, channels-last, with slack behind."""
    held = buffer("test levels", x.numel()).view(x.shape[0], x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)
    return held.copy_(x)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 3), st.integers(3, 13), st.integers(3, 13)),
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.integers(0, 2), st.integers(1, 2)),
    st.booleans(),
    st.sampled_from([1, 4096, 65536]),
    st.integers(0, 2**16),
)
def test_any_geometry(
    size: tuple[int, int, int],
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    geometry: tuple[int, int, int, int, int],
    signed: bool,
    planes_bytes: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups, per_group, filters = channels[0], channels[1], channels[0] * channels[2]
    g = Geometry(geometry[:2], geometry[2:4], (geometry[4], geometry[4]), groups)
    if min(g.output_size(size[1:], kernel)) < 1:
        return
    x = torch.randint(0, 256, (size[0], groups * per_group, *size[1:]), generator=generator)
    w = torch.randint(-128, 128, (filters, per_group, *kernel), generator=generator)
    w *= torch.rand(w.shape, generator=generator) < 0.5
    wanted = F.conv2d((x - 128 * signed).double(), w.double(), None, g.stride, g.padding, g.dilation, groups)
    layer = Layer(1, per_group, filters, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_layout, "PLANES_BYTES", planes_bytes)
        conv = SparseSums(all_sparse(w), SmtSpec(1), layer, g, kernel, x.shape)
    dense = torch.randint(-(2**20), 2**20, wanted.shape, generator=generator).int()
    dense = dense.contiguous(memory_format=torch.channels_last)
    found = torch.empty_like(dense)
    for given_dense in (dense, dense.float()):
        conv(levels_of(x), signed, given_dense, found, None, None)
        assert torch.equal(found, wanted.int() + dense)
    conv(levels_of(x), signed, None, found, None, None)
    assert torch.equal(found, wanted.int())
    scale = torch.rand(filters, generator=generator)
    bias = torch.randn(filters, generator=generator)
    scaled = torch.empty_like(dense, dtype=torch.float32)
    conv(levels_of(x), signed, dense, scaled, scale, bias)
    total = (wanted.int() + dense).float()
    assert torch.equal(scaled, total * scale.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1))


@pytest.mark.parametrize("filters", [513, 1000])
def test_more_filters_than_a_unit_takes(filters: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 8, 5, 5), generator=generator)
    w = torch.randint(-128, 128, (filters, 8, 1, 1), generator=generator)
    g = Geometry((1, 1), (0, 0), (1, 1), 1)
    conv = SparseSums(all_sparse(w), SmtSpec(1), Layer(1, 8, filters, 1), g, (1, 1), x.shape)
    found = torch.empty(2, filters, 5, 5, dtype=torch.int32).contiguous(memory_format=torch.channels_last)
    conv(levels_of(x), False, None, found, None, None)
    assert torch.equal(found, F.conv2d(x.double(), w.double()).int())


@pytest.mark.parametrize("value", [2.0**24, -(2.0**24) - 2, 1.5e8])
def test_rounded_dense_sums_are_reported(value: float) -> None:
    x = torch.zeros(1, 4, 3, 3, dtype=torch.uint8)
    g = Geometry((1, 1), (0, 0), (1, 1), 1)
    conv = SparseSums(all_sparse(torch.ones(9, 4, 1, 1)), SmtSpec(1), Layer(1, 4, 9, 1), g, (1, 1), x.shape)
    dense = torch.zeros(1, 9, 3, 3).contiguous(memory_format=torch.channels_last)
    dense[0, 8, 2, 2] = 2.0**24 - 1
    target = torch.empty_like(dense, dtype=torch.int32)
    conv(levels_of(x), False, dense, target, None, None)
    dense[0, 8, 2, 2] = value
    with pytest.raises(Inexact):
        conv(levels_of(x), False, dense, target, None, None)


def test_borders_are_shared_where_the_stride_is_one() -> None:
    layout = plan_layout(2, (3, 3), (3, 3), Geometry((1, 1), (1, 1), (1, 1), 1))
    # Rows of one border and three pixels; images of one border row and three others.
    assert layout.positions == 2 * 4 * 4
    # The last output is the third in the third row of the second image.
    assert layout.used == 4 * 4 + 2 * 4 + 3
    assert layout.offsets.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert layout.sources.tolist()[:10] == [-1, -1, -1, -1, -1, 0, 1, 2, -1, 3]
    assert layout.sources.tolist()[-5:] == [-1] * 5
    strided = plan_layout(1, (4, 4), (3, 3), Geometry((2, 2), (1, 1), (1, 1), 1))
    assert strided.phases.tolist() == [0, 1, 0, 2, 3, 2, 0, 1, 0]
    assert strided.offsets.tolist() == [0, 0, 1, 0, 0, 1, 3, 3, 4]


def test_few_positions_make_strips_that_two_workers_share_evenly() -> None:
    if not sparse_layout.WIDE:
        pytest.skip("strips are short anyway")
    # 8 images of 14 x 14 have 1784 positions: of 7 strips of 256 one worker would get four.
    shape = torch.Size((8, 4, 14, 14))
    g = Geometry((1, 1), (1, 1), (1, 1), 1)
    conv = SparseSums(all_sparse(torch.ones(16, 4, 3, 3)), SmtSpec(1), Layer(1, 4, 16, 1), g, (3, 3), shape)
    assert conv.units == 14
