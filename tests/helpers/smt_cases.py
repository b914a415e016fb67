"""Random layers for the tests, and a slow count of what the processing elements do."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from bnrecal.nbsmt import reference
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES


def integers(shape: tuple[int, ...], low: int, high: int, zeros: float, narrow: float, seed: int) -> Tensor:
    """int64 in low..high - 1, some of them 0, some divided by 16, some at the extremes."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, high, shape, generator=generator)
    draw = torch.rand(shape, generator=generator)
    values[draw < 0.1] = low if low else high - 1
    values[draw > 0.95] = high - 1
    values = torch.where(torch.rand(shape, generator=generator) < narrow, values // 16, values)
    return values * (torch.rand(shape, generator=generator) >= zeros)


@st.composite
def specs(draw: st.DrawFn) -> SmtSpec:
    """Every machine."""
    return SmtSpec(
        draw(st.sampled_from([1, 2, 4])),
        draw(st.sampled_from(POLICIES)),
        draw(st.booleans()),
        draw(st.sampled_from(["half_even", "floor"])),
        draw(st.booleans()),
    )


Layer = tuple[Tensor, Tensor, dict[str, tuple[int, int]], int]
small = st.integers(1, 2)


@st.composite
def layers(draw: st.DrawFn, groups: int | None = None) -> Layer:
    """Small layers: uint8 x, int8 w, stride/padding/dilation, groups."""
    groups = groups or draw(st.integers(1, 3))
    channels = draw(st.sampled_from([1, 2, 3, 4, 8]))
    filters = groups * draw(small)
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    geometry = {
        "stride": (draw(small), draw(small)),
        "padding": (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        "dilation": (draw(small), draw(small)),
    }
    size = (draw(st.integers(5, 6)), draw(st.integers(5, 6)))
    shares = [draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])) for _ in range(4)]
    seed = draw(st.integers(0, 2**16))
    x = integers((draw(small), groups * channels, *size), 0, 256, shares[0], shares[1], seed).to(torch.uint8)
    w = integers((filters, channels, *kernel), -128, 128, shares[2], shares[3], seed + 1).to(torch.int8)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    return x, w, geometry, groups


def expected(layer: Layer, spec: SmtSpec) -> Tensor:
    """The golden model's accumulators."""
    x, w, geometry, groups = layer
    options: dict[str, str | bool] = {
        name: getattr(spec, name) for name in ("policy", "sparsity", "rounding", "saturate")
    }
    stride, padding, dilation = geometry["stride"], geometry["padding"], geometry["dilation"]
    sums = reference.conv2d(
        x, w, threads=spec.threads, stride=stride, padding=padding, dilation=dilation, groups=groups, **options
    )
    return sums.to(torch.int32)
