"""Exact convolutions of 8-bit integers on whatever hardware is there."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.geometry import Geometry, Pair

# Sums of integers are exact in a format while every partial sum stays below 2 to its significand.
EXACT_BELOW = {torch.float32: 2**24, torch.float64: 2**53}
# Operands of the images taken at a time: they stay near a processor's cache; a GPU wants long launches.
PIECE_BYTES, GPU_PIECE_BYTES = 4 * 2**20, 2**30


class IntegerConv(Protocol):
    """An exact convolution with weights packed once."""

    def accumulate(self, x: Tensor) -> Tensor:
        """Return int32 sums of integer activations (N, C, H, W), exact."""

    def sums(self, x: Tensor) -> Tensor:
        """Return the sums as the hardware gives them, channels-last if x is: int32, or float32, exact below 2^24."""

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """Return scale[o] * sums + bias[o] in float32, each within rounding of the exact sums."""


class FloatConv:
    """Sums in float32, the input channels taken in chunks that cannot leave its exact range, or in float64.

    TF32 keeps 8-bit integers and powers of two up to 256 exactly and adds in float32, so it may stay on.
    """

    def __init__(self, w: Tensor, geometry: Geometry, largest: int, dtype: torch.dtype, device: torch.device) -> None:
        """Divide integer weights (O, C / groups, kh, kw) for activations of magnitude up to `largest`."""
        self.geometry, self.dtype = geometry, dtype
        self.chunks = chunks_within(w, largest, EXACT_BELOW[dtype])
        self.weights = [w[:, low:high].to(device, dtype) for low, high in self.chunks]

    @staticmethod
    def fits(w: Tensor, largest: int) -> bool:
        """Return whether even a single channel's sums are exact in float32."""
        worst = w.to(torch.int16).abs().sum((2, 3), dtype=torch.int64).max()
        return int(worst) * largest < EXACT_BELOW[torch.float32]

    def accumulate(self, x: Tensor) -> Tensor:
        total = self._sum(x, 0).to(torch.int32)
        for chunk in range(1, len(self.chunks)):
            total += self._sum(x, chunk).to(torch.int32)
        return total

    def sums(self, x: Tensor) -> Tensor:
        alone = len(self.chunks) == 1 and self.dtype == torch.float32
        return self._sum(x, 0) if alone else self.accumulate(x)

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        sums = self._sum(x, 0) if len(self.chunks) == 1 else self.accumulate(x)
        y = sums.float() * scale.view(1, -1, 1, 1)
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))

    def _sum(self, x: Tensor, chunk: int) -> Tensor:
        g, w = self.geometry, self.weights[chunk]
        x = channel_range(x, g.groups, self.chunks[chunk]).to(self.dtype)
        # cuDNN may choose Winograd, whose transforms round; oneDNN reads beyond a single channel's rows where a wide
        # stride leaves one column of outputs.
        if x.shape[1] == 1 or (x.is_cuda and g.groups == 1):
            return _conv_by_product(x, w, g)
        with torch.backends.nnpack.flags(enabled=False):  # whose transforms round from batch 16 on
            return F.conv2d(x, w, None, g.stride, g.padding, g.dilation, g.groups)


def images_at_a_time(image_bytes: int, kernel: Pair, device: torch.device) -> int:
    """Return how many images to expand and convolve at a time, at least 1.

    Args:
        image_bytes: bytes of one image's operands. A GPU holds them as float32 once for every tap of the kernel.
    """
    if device.type == "cuda":
        return max(1, GPU_PIECE_BYTES // (4 * kernel[0] * kernel[1] * image_bytes))
    return max(1, PIECE_BYTES // image_bytes)


def _conv_by_product(x: Tensor, w: Tensor, g: Geometry) -> Tensor:
    kernel = (w.shape[2], w.shape[3])
    height, width = g.output_size((x.shape[2], x.shape[3]), kernel)
    columns = F.unfold(x, kernel, g.dilation, g.padding, g.stride)
    return (w.flatten(1) @ columns).view(x.shape[0], w.shape[0], height, width)


def channel_range(x: Tensor, groups: int, chunk: tuple[int, int]) -> Tensor:
    """Return channels low..high-1 of each group."""
    images, channels, height, width = x.shape
    low, high = chunk
    if high - low == channels // groups:
        return x
    return x.view(images, groups, channels // groups, height, width)[:, :, low:high].flatten(1, 2)


def chunks_within(w: Tensor, largest: int, limit: int, together: int = 1) -> list[tuple[int, int]]:
    """Return consecutive ranges of input channels, each of which can only sum to less than `limit` in magnitude.

    Args:
        w: integer (O, C, kh, kw), none of them 0.
        largest: bound on the magnitude of the activations.
        together: channels that stay together.
    """
    worst = w.to(torch.int16).abs().sum((2, 3), dtype=torch.int64) * largest
    worst = F.pad(worst, (0, -worst.shape[1] % together)).view(len(worst), -1, together).sum(2)
    if int(worst.max()) >= limit:
        raise ValueError(f"a kernel of {tuple(w.shape[2:])} can sum to {int(worst.max())}, not below {limit}")
    if int(worst.sum(1).max()) < limit:
        return [(0, w.shape[1])]
    starts = [0]
    total = torch.zeros_like(worst[:, 0])
    for at in range(worst.shape[1]):
        total = total + worst[:, at]
        if int(total.max()) >= limit:
            starts.append(at * together)
            total = worst[:, at]
    return list(zip(starts, [*starts[1:], w.shape[1]], strict=True))
