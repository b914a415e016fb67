"""The depthwise kernel against the golden model, and where it is chosen."""

import pytest
import torch
from helpers.smt_cases import integers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bnrecal.nbsmt import reference
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines.cpu import depthwise
from bnrecal.nbsmt.engines.cpu.depthwise import DepthwiseEngine
from bnrecal.nbsmt.engines.cpu.kernels import depthwise as depthwise_kernel
from bnrecal.nbsmt.engines.engine import ConvLayer
from bnrecal.nbsmt.geometry import Geometry, Pair, pointwise
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

pytestmark = pytest.mark.skipif(depthwise_kernel.kernel() is None, reason="numba is switched off")


def golden(levels: Tensor, w: Tensor, g: Geometry) -> Tensor:
    sums = reference.conv2d(
        levels, w, threads=1, stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups
    )
    return sums.to(torch.int32)


def prepared(w: Tensor, g: Geometry) -> PreparedConv2d:
    found = PreparedConv2d(w, SmtSpec(1), stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups)
    assert found.engine_name == "depthwise"
    return found


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=50)
@given(
    st.sampled_from([1, 3, 8, 15, 16, 17, 24, 40]),
    st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 7), (2, 3), (1, 7)]),
    pairs(1, 3),
    pairs(0, 3),
    pairs(1, 2),
    st.tuples(st.integers(1, 2), st.integers(13, 15), st.integers(13, 15)),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 2**16),
)
def test_equals_the_golden_model(
    channels: int,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    size: tuple[int, int, int],
    signed: bool,
    lowest: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = integers((channels, 1, *kernel), -128, 128, 0.1, 0.3, seed).to(torch.int8)
    w[torch.rand(w.shape, generator=generator) < lowest] = -128
    x = torch.randn(size[0], channels, *size[1:], generator=generator) * 4
    x[0, 0, 0, :3] = torch.tensor([float("nan"), 1e30, -1e30])
    g = Geometry(stride, padding, dilation, channels)
    levels = quantize_activation(x, 0.02, signed)
    sums = golden(levels, w, g)
    conv = prepared(w, g)
    assert torch.equal(conv.accumulate(levels), sums)
    scale = torch.rand(channels, generator=generator)
    bias = torch.randn(channels, generator=generator)
    y = conv(x, 0.02, scale, bias, signed)
    assert torch.equal(y, sums.float() * (scale * 0.02).view(-1, 1, 1) + bias.view(-1, 1, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)
    if seed % 2:
        x = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv(x, 0.02, scale, None, signed), sums.float() * (scale * 0.02).view(-1, 1, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_inputs_and_outputs_of_a_few_columns(size: int) -> None:
    x = integers((2, 20, size, size), 0, 256, 0.2, 0.2, size).byte()
    w = integers((20, 1, 3, 3), -128, 128, 0.1, 0.3, 2).to(torch.int8)
    for stride in (1, 2):
        g = Geometry((stride, stride), (1, 1), (1, 1), 20)
        assert torch.equal(prepared(w, g).accumulate(x), golden(x, w, g))


@pytest.mark.parametrize("ring", [1, 20_000, 10**6])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_any_division_into_units(workers: int, ring: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (2, 50, 40, 11), generator=generator).byte()
    w = torch.randint(-128, 128, (50, 1, 3, 3), generator=generator).to(torch.int8)
    g = Geometry((1, 2), (1, 1), (1, 1), 50)
    wanted = PreparedConv2d(w, SmtSpec(1), stride=(1, 2), padding=1, groups=50, engine="float64").accumulate(x)
    monkeypatch.setattr(depthwise, "RING_BYTES", ring)
    monkeypatch.setattr(torch, "get_num_threads", lambda: workers)
    assert torch.equal(prepared(w, g).accumulate(x), wanted)


@pytest.mark.parametrize("kernel", [7, 22])
def test_extremes_of_the_largest_kernels(kernel: int) -> None:
    x = torch.full((1, 3, kernel, kernel), 255, dtype=torch.uint8)
    w = torch.full((3, 1, kernel, kernel), -128, dtype=torch.int8)
    w[1], w[2, :, ::2] = 127, 127
    g = Geometry((1, 1), (0, 0), (1, 1), 3)
    assert prepared(w, g).accumulate(x).flatten().tolist() == [255 * int(row.sum()) for row in w.int()]


def test_only_depthwise_layers_on_one_thread() -> None:
    w = torch.ones(8, 1, 3, 3, dtype=torch.int8)
    assert isinstance(PreparedConv2d(w, SmtSpec(1), groups=8).engine, DepthwiseEngine)
    for weight, threads in (
        (w, 2),
        (torch.ones(8, 2, 3, 3, dtype=torch.int8), 1),
        (torch.full((8, 1, 23, 23), -128, dtype=torch.int8), 1),  # beyond 2^24
    ):
        layer = ConvLayer(weight, SmtSpec(threads), pointwise(8), torch.device("cpu"))
        assert DepthwiseEngine.can_run(layer)
    with pytest.raises(ValueError, match="'depthwise'"):
        PreparedConv2d(w, SmtSpec(2), groups=8, engine="depthwise")
