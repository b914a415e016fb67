"""From channels-last levels to planes: for every channel one run of positions, zero border included.

In a plane a kernel tap is a fixed distance: output p of a filter meets positions p + offset(tap). A stride s takes
apart rows and columns by their remainder mod s, each with planes of its own (*phases*).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels import simd_i32 as s
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import u64
from bnrecal.nbsmt.engines.cpu.kernels.runtime import (
    args_dtype,
    buffer,
    compile_kernel,
    compiled,
    copy_args,
    run_kernel,
    scratch,
)
from bnrecal.nbsmt.geometry import Geometry, Pair

Ints = np.ndarray[Any, np.dtype[np.int64]]
Pixels = np.ndarray[Any, np.dtype[np.int32]]
CHANNELS, RUN = 16, 64  # what is transposed at a time: channels, and positions a worker takes
ARGS = args_dtype(
    "source",  # uint8 (pixels, channels)
    "channels",
    "pixels",  # int32 (positions,): the pixel of a position, -1 in the border
    "positions",
    "border",  # uint8 (channels,): a pixel of the border
    "planes",  # uint8 (channels, pitch)
    "pitch",
    "scratch",  # 64 addresses for each worker
)


@dataclass(frozen=True, eq=False)
class PlaneLayout:
    """Where the planes of a batch hold what.

    Attributes:
        sources: int32 (phases * positions and a last border,), the input pixel (counted over all images) at a position,
            -1: the border.
        outputs: int32 (positions,), the output pixel whose first tap lies there, -1: none.
        phases: int64 (taps,), of every tap.
        offsets: int64 (taps,), positions from an output to its tap.
    """

    sources: Pixels
    outputs: Pixels
    phases: Ints
    offsets: Ints

    @property
    def positions(self) -> int:
        """Of one phase."""
        return len(self.outputs)


def plan_layout(images: int, size: Pair, kernel: Pair, g: Geometry) -> PlaneLayout:
    """For a batch of inputs of (H, W)."""
    # With stride 1, a row's right border is the next row's left one, and one image's lower border the next one's upper.
    shared = g.stride == (1, 1)
    rows, columns = (
        size[d] + g.padding[d] if shared else -(-(size[d] + 2 * g.padding[d]) // g.stride[d]) for d in range(2)
    )
    high, wide = g.output_size(size, kernel)
    rows, columns = max(rows, high), max(columns, wide)
    down, right = (np.arange(kernel[d]) * g.dilation[d] for d in range(2))
    phase = (down % g.stride[0])[:, None] * g.stride[1] + right % g.stride[1]
    offsets = (down // g.stride[0])[:, None] * columns + right // g.stride[1]
    used, phases = np.unique(phase, return_inverse=True)
    sources = [_sources(images, size, (rows, columns), divmod(int(p), g.stride[1]), g) for p in used]
    if shared:  # the last image's lower border
        sources.append(np.full(g.padding[0] * columns + g.padding[1], -1, np.int32))
    outputs = np.full((images, rows, columns), -1, np.int32)
    outputs[:, :high, :wide] = np.arange(images * high * wide).reshape(images, high, wide)
    return PlaneLayout(np.concatenate(sources), outputs.reshape(-1), phases.reshape(-1), offsets.reshape(-1))


def _sources(images: int, size: Pair, grid: Pair, phase: Pair, g: Geometry) -> Pixels:
    """Of one phase."""
    y, x = (np.arange(grid[d]) * g.stride[d] + phase[d] - g.padding[d] for d in range(2))
    inside = ((y >= 0) & (y < size[0]))[:, None] & ((x >= 0) & (x < size[1]))
    image = np.arange(images)[:, None, None] * size[0]
    pixels = (image + y[:, None]) * size[1] + x
    return np.where(inside, pixels, -1).astype(np.int32).reshape(-1)


class Planes:
    """Planes of one layout, in a buffer that all layers of a thread share."""

    def __init__(self, layout: PlaneLayout, channels: int, reach: int) -> None:
        """`reach`: how many bytes behind a plane's positions are read, whatever they hold."""
        self.layout = layout
        # An odd number of cache lines: planes a power of two apart would fall on the same few lines of the cache.
        self.pitch = 64 * ((len(layout.sources) + reach) // 64 + 1 | 1)
        self.bytes = self.pitch * -(-channels // CHANNELS) * CHANNELS
        self.borders = [np.full(channels + CHANNELS, value, np.uint8) for value in (0, 128)]
        self.args = np.zeros((), ARGS)
        self.args["channels"], self.args["pitch"] = channels, self.pitch
        self.args["pixels"], self.args["positions"] = layout.sources.ctypes.data, len(layout.sources)

    def __call__(self, levels: Tensor, signed: bool) -> int:
        """The address of the planes of uint8 levels (N, C, H, W), channels-last; overwritten by the next call."""
        args, planes = copy_args(self.args), buffer("planes", self.bytes).data_ptr()
        args["source"], args["planes"], args["border"] = levels.data_ptr(), planes, self.borders[signed].ctypes.data
        args["scratch"] = scratch("rows", 8 * RUN)
        run_kernel(kernel(), args, -(-int(args["positions"]) // RUN))
        return planes


@compiled
def _transpose(args: Any, pixels: Any, first: u64, count: u64, rows: u64) -> None:
    """`count` positions, at most 64, of all channels."""
    for i in range(u64(RUN)):
        pixel = pixels[first + i] if i < count else np.int32(-1)
        v.store_u64(rows + u64(8) * i, args.border if pixel < 0 else args.source + u64(pixel) * args.channels)
    target = args.planes + first
    for c in range(u64(0), args.channels, u64(CHANNELS)):
        for i in range(u64(0), u64(RUN), u64(16)):
            s.transpose_bytes(rows + u64(8) * i, c, target + i, args.pitch)
        target += u64(CHANNELS) * args.pitch


def _make(sources: str) -> Any:
    def transpose_runs(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        args = carray(address, 1, ARGS)[0]
        rows = args.scratch + v.claim(args.address + u64(16)) * u64(8 * RUN)
        pixels = carray(v.pointer(args.pixels), int(args.positions), np.int32)
        while True:
            first = v.claim(args.address + u64(8)) * u64(RUN)
            if first >= args.positions:
                return
            _transpose(args, pixels, first, min(u64(RUN), args.positions - first), rows)

    return transpose_runs


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
