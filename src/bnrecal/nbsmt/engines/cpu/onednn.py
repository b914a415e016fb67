"""oneDNN's 8-bit convolution, and how far its sums can be trusted here.

No list of processors decides that, but a trial: operands at their extremes, compared with the exact sums. A trial
proves nothing where oneDNN reads beyond its input, for what lies there changes, so such geometries never reach it. A
search of thousands of layers at every instruction set (`scripts/search_exactness.py`) found two kinds:

- One channel a group. On AVX-512 without VNNI neighbouring taps are added in 16 bits, at some sizes of input only.
- Images so narrow that an output sees the border on both sides, or nothing but border. Sums are wrong, or the process
  ends. With the border made beforehand they are right.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import cache, cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import PAIR_LIMIT
from bnrecal.nbsmt.engines.cpu.by_shape import ByShape
from bnrecal.nbsmt.engines.integer_conv import EXACT_BELOW, FloatConv, channel_range, chunks_within
from bnrecal.nbsmt.geometry import Geometry, Pair

SIGNED_OFFSET = 128  # oneDNN takes unsigned activations only: signed ones travel as x + 128
TRIAL_SHAPE, TRIAL_WEIGHT = (16, 64, 14, 14), (64, 64, 3, 3)
TRIAL_GEOMETRY = Geometry((1, 1), (1, 1), (1, 1), 1)


class Exactness(Enum):
    """The worth of oneDNN's sums of unsigned times signed bytes."""

    NONE = "none"
    PAIRED = "paired"  # exact while |b| + |b'| <= 128 for channels 2i and 2i + 1: pairs are added in 16 bits
    FULL = "full"  # exact whatever the weights are


def can_trust(weight_shape: tuple[int, ...]) -> bool:
    """Return whether a trial tells what oneDNN's sums are worth for weights (O, C / groups, kh, kw)."""
    return weight_shape[1] > 1


class OneDnnConv:
    """oneDNN's uint8 x int8 convolution: int32 sums inside, float32 out, channels-last."""

    def __init__(self, weights: Callable[[], Tensor], geometry: Geometry, zero_point: int = 0) -> None:
        """Ask for int8 weights (O, C / groups, kh, kw) when they are packed; activations count from `zero_point`."""
        self.weights, self.geometry, self.zero_point = weights, geometry, zero_point
        self._packed: ByShape[tuple[Tensor, Tensor, Tensor]] = ByShape()

    @cached_property
    def kernel(self) -> Pair:
        """(kh, kw)."""
        return self.weights().shape[2], self.weights().shape[3]

    def accumulate(self, x: Tensor) -> Tensor:
        sums = self.sums(x)
        if float(sums.abs().max()) < EXACT_BELOW[torch.float32]:
            return sums.to(torch.int32)  # no sum was rounded on its way out of int32
        w = self.weights()
        total = torch.zeros_like(sums, dtype=torch.int32)
        if not FloatConv.fits(w, 2 * 255):  # a kernel so large that no two channels would do
            exact = FloatConv(w, self.geometry, 255, torch.float64, x.device)
            return exact.accumulate(x.to(torch.int16) - self.zero_point)
        x, geometry = self._bordered(x)
        for chunk in chunks_within(w, 255, EXACT_BELOW[torch.float32], together=2):
            part = channel_range(x, geometry.groups, chunk)
            packed = self._pack(w[:, chunk[0] : chunk[1]], part, geometry)
            total += self._run(part, geometry, *packed, None).to(torch.int32)
        return total

    def sums(self, x: Tensor) -> Tensor:
        x, geometry = self._bordered(x)
        packed, unit, zero_points = self._pack_for(x, geometry)
        return self._run(x, geometry, packed, unit, zero_points, None)

    def convolve(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        x, geometry = self._bordered(x)
        packed, _, zero_points = self._pack_for(x, geometry)
        return self._run(x, geometry, packed, scale, zero_points, bias)

    def _bordered(self, x: Tensor) -> tuple[Tensor, Geometry]:
        """Return what oneDNN sees: where its own border fails, an input that has one, and the geometry without."""
        g = self.geometry
        if not _is_narrow((x.shape[2], x.shape[3]), self.kernel, g):
            return x, g
        rows, columns = g.padding
        return F.pad(x, (columns, columns, rows, rows), value=self.zero_point), replace(g, padding=(0, 0))

    def _pack_for(self, x: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
        """Weights in the order that oneDNN wants for this shape.

        Any other order works too, but is converted on every call: seconds for the largest layers.
        """
        return self._packed.get(x.shape, lambda: self._pack(self.weights(), x, geometry))

    def _pack(self, w: Tensor, x: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor]:
        unit = torch.ones(w.shape[0])
        zero_points = torch.zeros(w.shape[0], dtype=torch.int64)
        packed: Tensor = torch.ops.onednn.qconv_prepack(
            w, unit, 1.0, self.zero_point, g.stride, g.padding, g.dilation, g.groups, list(x.shape)
        )
        return packed, unit, zero_points

    def _run(
        self, x: Tensor, g: Geometry, packed: Tensor, scale: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> Tensor:
        y: Tensor = torch.ops.onednn.qconv2d_pointwise.default(
            x.contiguous(memory_format=torch.channels_last), 1.0, self.zero_point, packed, scale, zero_points, bias,
            g.stride, g.padding, g.dilation, g.groups, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return y


def _is_narrow(size: Pair, kernel: Pair, g: Geometry) -> bool:
    """Return whether an output sees the border on both sides of the image, or nothing else, in rows or in columns."""
    for d in range(2):
        reach = (kernel[d] - 1) * g.dilation[d]
        if g.padding[d] > 0 and (size[d] <= reach or g.padding[d] > reach):
            return True
    return False


def onednn_exactness() -> Exactness:
    """Return what oneDNN is good for in this process; NONE too where it is slower than float32."""
    return onednn_trial()[0]


@cache
def onednn_trial() -> tuple[Exactness, str]:
    """Return what oneDNN is good for, tried once, and where it is NONE, why."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Exactness.NONE, "this torch has no oneDNN"
    for level in (Exactness.FULL, Exactness.PAIRED):
        if sums_are_exact(level, TRIAL_SHAPE, TRIAL_WEIGHT, TRIAL_GEOMETRY):
            return (level, "") if _is_quick() else (Exactness.NONE, "oneDNN's 8-bit convolution is slower than float32")
    return Exactness.NONE, "oneDNN's 8-bit convolution is not exact, or not there"


@cache
def sums_are_exact(
    level: Exactness, shape: tuple[int, ...], weight: tuple[int, ...], geometry: Geometry, zero_point: int = 0
) -> bool:
    """Return whether a convolution of these shapes keeps what `level` promises, tried once with the worst operands.

    Args:
        shape: of the activations (N, C, H, W); all of them will be 255.
        weight: (O, C / groups, kh, kw).
    """
    w = _extreme_weights(level, weight)
    conv = OneDnnConv(lambda: w, geometry, zero_point)
    x = torch.full(shape, 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    ones = FloatConv(w, geometry, 1, torch.float32, x.device).accumulate(torch.ones(1, *shape[1:]))
    exact = ones.double() * (255 - zero_point)
    try:
        return bool(torch.equal(conv.sums(x), exact.float().expand(shape[0], -1, -1, -1)))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def _extreme_weights(level: Exactness, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if level is Exactness.FULL:
        w = torch.where(torch.rand(shape, generator=generator) < 0.5, -128, 127)
        w[0], w[-1] = -128, 127
        return w.to(torch.int8)
    # Pairs that add up to 128 and -128 and would be over the limit with any other neighbour.
    first = torch.randint(1, PAIR_LIMIT, shape, generator=generator)
    sign = torch.where(torch.rand(shape, generator=generator) < 0.5, -1, 1)
    sign[:1] = 1
    w = first.clone()
    second = w[:, 1::2]
    second.copy_(PAIR_LIMIT - first[:, : shape[1] // 2 * 2 : 2])
    sign[:, 1::2] = sign[:, : shape[1] // 2 * 2 : 2]
    return (w * sign).to(torch.int8)


def _is_quick() -> bool:
    """Return whether 8 bits are worth it: without instructions for them some builds of oneDNN run plain loops."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-64, 64, TRIAL_WEIGHT, generator=generator).to(torch.int8)
    x = torch.randint(0, 256, TRIAL_SHAPE, generator=generator).to(torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    conv = OneDnnConv(lambda: w, TRIAL_GEOMETRY)
    x_float = x.float()
    w_float = w.float().contiguous(memory_format=torch.channels_last)
    # In turns, so that a busy moment hits both: what is chosen here stands in `layers.csv`.
    eight_bit = []
    plain = []
    for _ in range(6):
        eight_bit.append(_seconds(lambda: conv.sums(x)))
        plain.append(_seconds(lambda: F.conv2d(x_float, w_float, padding=1)))
    return min(eight_bit[1:]) < min(plain[1:])  # the first call packs


def _seconds(call: Callable[[], object]) -> float:
    """Return processor time of all workers: what other programs take meanwhile does not count."""
    start = time.process_time()
    call()
    return time.process_time() - start
