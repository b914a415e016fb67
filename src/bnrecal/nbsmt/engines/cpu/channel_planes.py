"""Planes: the levels of each channel as one run of positions, so that a kernel's tap is a fixed distance.

Output p of a filter takes positions p + offset(tap). A stride s parts rows and columns by their remainder mod s, each
with planes of its own (*phases*).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels.channel_planes import ARGS, CHANNELS, RUN, kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import OwnArgs, buffer_address, new_args, run_kernel, scratch
from bnrecal.nbsmt.geometry import Geometry, Pair

Ints = np.ndarray[Any, np.dtype[np.int64]]
Pixels = np.ndarray[Any, np.dtype[np.int32]]


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
        """Positions of one phase."""
        return len(self.outputs)

    @property
    def used(self) -> int:
        """Positions of one phase up to the last one with an output: none of the last image's lower border."""
        return int(np.flatnonzero(self.outputs >= 0)[-1]) + 1


def plan_layout(images: int, size: Pair, kernel: Pair, g: Geometry) -> PlaneLayout:
    """Return the layout of a batch of inputs of (H, W)."""
    # With stride 1, a row's right border is the next row's left one, and one image's lower border the next one's upper.
    shared = g.stride == (1, 1)
    high, wide = g.output_size(size, kernel)
    rows = max(_positions(size[0], g.padding[0], g.stride[0], shared), high)
    columns = max(_positions(size[1], g.padding[1], g.stride[1], shared), wide)
    down = np.arange(kernel[0]) * g.dilation[0]
    right = np.arange(kernel[1]) * g.dilation[1]
    # Which phase a tap falls into, and how many positions of it lie between an output's first and the tap's.
    phase = (down % g.stride[0])[:, None] * g.stride[1] + right % g.stride[1]
    offsets = (down // g.stride[0])[:, None] * columns + right // g.stride[1]
    # Only phases that some tap falls into get planes.
    used, phases = np.unique(phase, return_inverse=True)
    sources = [_sources(images, size, (rows, columns), divmod(int(p), g.stride[1]), g) for p in used]
    if shared:  # the last image's lower border
        sources.append(np.full(g.padding[0] * columns + g.padding[1], -1, np.int32))
    outputs = np.full((images, rows, columns), -1, np.int32)
    outputs[:, :high, :wide] = np.arange(images * high * wide).reshape(images, high, wide)
    return PlaneLayout(np.concatenate(sources), outputs.reshape(-1), phases.reshape(-1), offsets.reshape(-1))


def _positions(size: int, padding: int, stride: int, shared: bool) -> int:
    """Return the rows (or columns) of one phase of an image with its border."""
    if shared:
        return size + padding
    return -(-(size + 2 * padding) // stride)


def _sources(images: int, size: Pair, grid: Pair, phase: Pair, g: Geometry) -> Pixels:
    """Return int32 (images * rows * columns,): the input pixel at every position of one phase, -1 in the border."""
    y = np.arange(grid[0]) * g.stride[0] + phase[0] - g.padding[0]
    x = np.arange(grid[1]) * g.stride[1] + phase[1] - g.padding[1]
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
        self.border_addresses = [border.ctypes.data for border in self.borders]
        args = new_args(
            ARGS,
            channels=channels,
            pitch=self.pitch,
            pixels=layout.sources.ctypes.data,
            positions=len(layout.sources),
        )
        self.own = OwnArgs(args)
        self.units = -(-len(layout.sources) // RUN)

    def __call__(self, levels: Tensor, signed: bool) -> int:
        """Return the address of the planes of uint8 levels (N, C, H, W), channels-last.

        The next call in this thread overwrites them.
        """
        planes = buffer_address("planes", self.bytes)
        args = self.own.args
        args["source"] = levels.data_ptr()
        args["planes"] = planes
        args["border"] = self.border_addresses[signed]
        args["scratch"] = scratch("rows", 8 * RUN)
        run_kernel(kernel(), args, self.units)
        return planes
