"""Exact convolutions of 8-bit integers on whatever hardware is there."""

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Sums of integers are exact in a format while every partial sum stays below 2 to its significand.
EXACT_BELOW = {torch.float32: 2**24, torch.float64: 2**53}
SIGNED_OFFSET = 128  # oneDNN takes unsigned activations only: signed ones travel as x + 128


@dataclass(frozen=True)
class Geometry:
    """Of a convolution, as `F.conv2d` takes it."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def output_size(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """(H', W') from (H, W) and (kh, kw), as integers that may be < 1 where nothing fits."""
        spans = zip(size, self.padding, self.dilation, kernel, self.stride, strict=True)
        high, wide = ((length + 2 * pad - step * (taps - 1) - 1) // stride + 1 for length, pad, step, taps, stride in spans)
        return high, wide


class Backend(Protocol):
    """An exact convolution with weights packed once."""

    name: str
    activation_dtype: torch.dtype  # what `accumulate` and `convolve` want their (expanded) activations to be

    def accumulate(self, x: Tensor) -> Tensor:
        """int32 sums of integer activations (N, C, H, W), exact."""

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """scale[o] * sums + bias[o] in float32, each within rounding of the exact sums."""


class FloatConv:
    """Sums in float32, the input channels taken in chunks that cannot leave its exact range, or in float64.

    TF32 keeps 8-bit integers and powers of two up to 256 exactly and adds in float32, so it may stay on.
    """

    def __init__(self, w: Tensor, geometry: Geometry, largest: int, dtype: torch.dtype, device: torch.device) -> None:
        """Of integer weights (O, C / groups, kh, kw) and activations of magnitude up to `largest`."""
        self.geometry, self.dtype = geometry, dtype
        self.name = str(dtype).removeprefix("torch.")
        self.activation_dtype = dtype
        self.chunks = chunks_within(w, largest, EXACT_BELOW[dtype])
        self.weights = [w[:, low:high].to(device, dtype) for low, high in self.chunks]

    def accumulate(self, x: Tensor) -> Tensor:
        sums = [self._sum(x, chunk, w).to(torch.int32) for chunk, w in zip(self.chunks, self.weights, strict=True)]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0, dtype=torch.int32)

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        only = len(self.chunks) == 1
        sums = self._sum(x, self.chunks[0], self.weights[0]) if only else self.accumulate(x)
        y = sums.float() * scale.view(1, -1, 1, 1)
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))

    def _sum(self, x: Tensor, chunk: tuple[int, int], w: Tensor) -> Tensor:
        g, (low, high) = self.geometry, chunk
        groups = x.unflatten(1, (g.groups, -1))
        if high - low < groups.shape[2]:
            x = groups[:, :, low:high].flatten(1, 2)
        x = x.to(self.dtype)
        if x.is_cuda and g.groups == 1:  # cuDNN may choose Winograd, whose transforms round
            return _conv_by_product(x, w, g)
        return F.conv2d(x, w, None, g.stride, g.padding, g.dilation, g.groups)


def _conv_by_product(x: Tensor, w: Tensor, g: Geometry) -> Tensor:
    height, width = g.output_size((x.shape[2], x.shape[3]), (w.shape[2], w.shape[3]))
    kernel = (w.shape[2], w.shape[3])
    columns = F.unfold(x, kernel, g.dilation, g.padding, g.stride)
    return (w.flatten(1) @ columns).unflatten(2, (height, width))


def chunks_within(w: Tensor, largest: int, limit: int) -> list[tuple[int, int]]:
    """Consecutive ranges of input channels, each of which can only sum to less than `limit` in magnitude.

    Args:
        w: integer (O, C, kh, kw), C >= 1.
        largest: bound on the magnitude of the activations.

    Raises:
        ValueError: where a single channel exceeds it.
    """
    worst = w.abs().sum((2, 3), dtype=torch.int64) * largest if w.shape[0] else w.new_zeros(1, w.shape[1]).long()
    if int(worst.max()) >= limit:
        raise ValueError(f"a kernel of {tuple(w.shape[2:])} can sum to {int(worst.max())}, not below {limit}")
    if int(worst.sum(1).max()) < limit:
        return [(0, w.shape[1])]
    chunks, start, total = [], 0, torch.zeros_like(worst[:, 0])
    for channel in range(w.shape[1]):
        total = total + worst[:, channel]
        if int(total.max()) >= limit:
            chunks.append((start, channel))
            start, total = channel, worst[:, channel]
    return [*chunks, (start, w.shape[1])]


class OneDnnConv:
    """oneDNN's uint8 x int8 convolution: int32 sums inside, float32 out, channels-last."""

    name = "onednn-int8"
    activation_dtype = torch.uint8

    def __init__(self, w: Tensor, geometry: Geometry, zero_point: int = 0) -> None:
        """Of int8 weights (O, C / groups, kh, kw); activations count from `zero_point`, which also pads."""
        self.geometry, self.zero_point, self.filters = geometry, zero_point, w.shape[0]
        self.unit = torch.ones(w.shape[0])
        self.weight_zero_point = torch.zeros(w.shape[0], dtype=torch.int64)
        self.packed = self._pack(w, geometry)
        # The sums come out as float32. Kept for `accumulate` alone: channel ranges whose sums that holds exactly.
        self.chunks = chunks_within(w, 255, EXACT_BELOW[torch.float32])
        self.w = w if len(self.chunks) > 1 else None

    def accumulate(self, x: Tensor) -> Tensor:
        if self.w is None:
            return self._run(x, self.packed, self.unit, None).to(torch.int32)
        total: Tensor | int = 0
        channels = x.unflatten(1, (self.geometry.groups, -1))
        for low, high in self.chunks:
            part = channels[:, :, low:high].flatten(1, 2).contiguous(memory_format=torch.channels_last)
            packed = self._pack(self.w[:, low:high], self.geometry)
            total = self._run(part, packed, self.unit, None).to(torch.int32) + total
        assert isinstance(total, Tensor)
        return total

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return self._run(x, self.packed, scale, bias)

    def _pack(self, w: Tensor, g: Geometry) -> Tensor:
        packed: Tensor = torch.ops.onednn.qconv_prepack(
            w, self.unit, 1.0, self.zero_point, list(g.stride), list(g.padding), list(g.dilation), g.groups, None
        )
        return packed

    def _run(self, x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        g = self.geometry
        y: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x.contiguous(memory_format=torch.channels_last), 1.0, self.zero_point,
            packed, scale, self.weight_zero_point, bias,
            list(g.stride), list(g.padding), list(g.dilation), g.groups,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return y


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's 8-bit convolution is there and sums extreme operands without loss (checked once).

    Without VNNI it adds pairs of products in int16, which saturates.
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
        return False
    generator = torch.Generator().manual_seed(0)
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    w = torch.where(torch.rand(17, 48, 3, 3, generator=generator) < 0.5, -128, 127).to(torch.int8)
    w[0], w[1] = -128, 127
    try:
        for zero_point, fill in ((0, 255), (SIGNED_OFFSET, 0)):
            x = torch.full((1, 48, 5, 5), fill, dtype=torch.uint8)
            got = OneDnnConv(w, geometry, zero_point).accumulate(x)
            expected = F.conv2d(x.double() - zero_point, w.double(), padding=1)
            if not torch.equal(got.double(), expected):
                return False
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True
