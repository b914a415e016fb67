"""Exact convolutions of 8-bit integers on whatever hardware is there."""

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.geometry import Geometry

# Sums of integers are exact in a format while every partial sum stays below 2 to its significand.
EXACT_BELOW = {torch.float32: 2**24, torch.float64: 2**53}
SIGNED_OFFSET = 128  # oneDNN takes unsigned activations only: signed ones travel as x + 128
PACKED_SHAPES = 2  # a loader's full batches and its last


class Backend(Protocol):
    """An exact convolution with weights packed once."""

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
        self.chunks = chunks_within(w, largest, EXACT_BELOW[dtype])
        self.weights = [w[:, low:high].to(device, dtype) for low, high in self.chunks]

    def accumulate(self, x: Tensor) -> Tensor:
        total = self._sum(x, 0).to(torch.int32)
        for chunk in range(1, len(self.chunks)):
            total += self._sum(x, chunk).to(torch.int32)
        return total

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        sums = self._sum(x, 0) if len(self.chunks) == 1 else self.accumulate(x)
        y = sums.float() * scale.view(1, -1, 1, 1)
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))

    def _sum(self, x: Tensor, chunk: int) -> Tensor:
        g, w = self.geometry, self.weights[chunk]
        x = channel_range(x, g.groups, self.chunks[chunk]).to(self.dtype)
        if x.is_cuda and g.groups == 1:  # cuDNN may choose Winograd, whose transforms round
            return _conv_by_product(x, w, g)
        return F.conv2d(x, w, None, g.stride, g.padding, g.dilation, g.groups)


def _conv_by_product(x: Tensor, w: Tensor, g: Geometry) -> Tensor:
    kernel = (w.shape[2], w.shape[3])
    height, width = g.output_size((x.shape[2], x.shape[3]), kernel)
    columns = F.unfold(x, kernel, g.dilation, g.padding, g.stride)
    return (w.flatten(1) @ columns).view(x.shape[0], w.shape[0], height, width)


def channel_range(x: Tensor, groups: int, chunk: tuple[int, int]) -> Tensor:
    """Channels low..high-1 of each group."""
    images, channels, height, width = x.shape
    low, high = chunk
    if high - low == channels // groups:
        return x
    return x.view(images, groups, channels // groups, height, width)[:, :, low:high].flatten(1, 2)


def chunks_within(w: Tensor, largest: int, limit: int) -> list[tuple[int, int]]:
    """Consecutive ranges of input channels, each of which can only sum to less than `limit` in magnitude.

    Args:
        w: integer (O, C, kh, kw), none of them 0.
        largest: bound on the magnitude of the activations.

    Raises:
        ValueError: where a single channel exceeds it.
    """
    worst = w.to(torch.int16).abs().sum((2, 3), dtype=torch.int64) * largest
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

    def __init__(self, weights: Callable[[], Tensor], geometry: Geometry, zero_point: int = 0) -> None:
        """Of int8 weights (O, C / groups, kh, kw), asked for when packed; activations count from `zero_point`."""
        self.weights, self.geometry, self.zero_point = weights, geometry, zero_point
        self._packed: OrderedDict[torch.Size, tuple[Tensor, Tensor, Tensor]] = OrderedDict()

    def accumulate(self, x: Tensor) -> Tensor:
        packed = self._pack_for(x)
        sums = self._run(x, packed[0], packed[1], packed[2], None)
        if float(sums.abs().max()) < EXACT_BELOW[torch.float32]:
            return sums.to(torch.int32)  # no sum was rounded on its way out of int32
        w, total = self.weights(), torch.zeros_like(sums, dtype=torch.int32)
        for chunk in chunks_within(w, 255, EXACT_BELOW[torch.float32]):
            part = channel_range(x, self.geometry.groups, chunk)
            total += self._run(part, *self._pack(w[:, chunk[0] : chunk[1]], part), None).to(torch.int32)
        return total

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        packed, _, zero_points = self._pack_for(x)
        return self._run(x, packed, scale, zero_points, bias)

    def _pack_for(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights in the order that oneDNN wants for this shape.

        Any other order works too, but is converted on every call: seconds for the largest layers.
        """
        if x.shape not in self._packed:
            if len(self._packed) == PACKED_SHAPES:
                self._packed.popitem(last=False)
            self._packed[x.shape] = self._pack(self.weights(), x)
        self._packed.move_to_end(x.shape)
        return self._packed[x.shape]

    def _pack(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g, unit, zero_points = self.geometry, torch.ones(w.shape[0]), torch.zeros(w.shape[0], dtype=torch.int64)
        packed: Tensor = torch.ops.onednn.qconv_prepack(
            w, unit, 1.0, self.zero_point, g.stride, g.padding, g.dilation, g.groups, list(x.shape)
        )
        return packed, unit, zero_points

    def _run(self, x: Tensor, packed: Tensor, scale: Tensor, zero_points: Tensor, bias: Tensor | None) -> Tensor:
        g = self.geometry
        y: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x.contiguous(memory_format=torch.channels_last), 1.0, self.zero_point, packed, scale, zero_points, bias,
            g.stride, g.padding, g.dilation, g.groups, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return y


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's 8-bit convolution is there and sums extreme operands without loss (checked once).

    Without VNNI it adds pairs of products in int16, which saturates.
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    w = torch.where(torch.rand(17, 48, 3, 3, generator=generator) < 0.5, -128, 127).to(torch.int8)
    w[0], w[1] = -128, 127
    try:
        for zero_point, fill in ((0, 255), (SIGNED_OFFSET, 0)):
            x = torch.full((1, 48, 5, 5), fill, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
            conv = OneDnnConv(lambda: w, Geometry((1, 1), (1, 1), (1, 1), 1), zero_point)
            expected = F.conv2d(x.double() - zero_point, w.double(), padding=1)
            if not torch.equal(conv.accumulate(x).double(), expected):
                return False
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True
