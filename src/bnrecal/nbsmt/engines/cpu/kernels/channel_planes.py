"""Channels-last levels to planes: one run of positions for every channel, zero border included."""

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from bnrecal.nbsmt.engines.cpu.kernels import simd_i32 as s
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.runtime import args_dtype, compiled, kernel_entry, u64

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


@compiled
def _transpose(args: Any, pixels: Any, first: u64, count: u64, rows: u64) -> None:
    """Write `count` positions, at most 64, of all channels."""
    # The address of each position's channels, the border's where there is no pixel.
    for i in range(u64(RUN)):
        pixel = pixels[first + i] if i < count else np.int32(-1)
        v.store_u64(rows + u64(8) * i, args.border if pixel < 0 else args.source + u64(pixel) * args.channels)
    # 16 channels of 16 positions at a time.
    target = args.planes + first
    for c in range(u64(0), args.channels, u64(CHANNELS)):
        for i in range(u64(0), u64(RUN), u64(16)):
            s.transpose_bytes(rows + u64(8) * i, c, target + i, args.pitch)
        target += u64(CHANNELS) * args.pitch


@kernel_entry
def kernel(address: Any) -> None:
    """Make the planes of a batch, 64 positions a unit."""
    args = carray(address, 1, ARGS)[0]
    rows = args.scratch + v.claim(args.address + u64(16)) * u64(8 * RUN)
    pixels = carray(v.pointer(args.pixels), int(args.positions), np.int32)
    while True:
        first = v.claim(args.address + u64(8)) * u64(RUN)
        if first >= args.positions:
            return
        _transpose(args, pixels, first, min(u64(RUN), args.positions - first), rows)


def channel_planes_ref(source: Any, pixels: Any, border: int) -> Any:
    """Return uint8 (channels, positions), what the kernel writes, by plain loops.

    Args:
        source: uint8 (pixels, channels).
        pixels: int32 (positions,), -1 in the border.
        border: the level of the border.
    """
    channels = source.shape[1]
    planes = np.zeros((channels, len(pixels)), np.uint8)
    for position, pixel in enumerate(pixels):
        for channel in range(channels):
            planes[channel, position] = border if pixel < 0 else source[pixel, channel]
    return planes
