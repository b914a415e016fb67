"""OpenCV's INTER_AREA and INTER_LINEAR for 8-bit images, without OpenCV (MLPerf's reference uses both).

Both are separable: an output row is a weighted sum of few input rows, its *taps*, and likewise for columns.
OpenCV sums in fixed point or float32 and rounds; sums here are float32: a pixel may differ by one grey level.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Taps:
    """What each output position along one axis is made of.

    Attributes:
        index: int64 (size_out, k), input positions.
        weight: float32 (size_out, k), summing to 1 along k; unused taps weigh 0.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    def window(self, start: int, length: int) -> "Taps":
        """The taps of output positions start..start+length-1 alone."""
        return Taps(self.index[start : start + length], self.weight[start : start + length])


def linear_taps(size_in: int, size_out: int) -> Taps:
    """INTER_LINEAR: two neighbours of the pixel centre, without antialiasing, edges repeated."""
    centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    return _two_taps(np.floor(centre).astype(np.int64), centre - np.floor(centre), size_in)


def area_taps(size_in: int, size_out: int) -> Taps:
    """INTER_AREA when shrinking: every input pixel weighs by how much of it the output pixel covers."""
    scale = size_in / size_out
    low = np.arange(size_out) * scale
    high = np.minimum(low + scale, size_in)
    first = np.floor(low + 1e-9).astype(np.int64)
    index = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
    covered = np.minimum(index + 1, high[:, None]) - np.maximum(index, low[:, None])
    weight = np.clip(covered, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    return Taps(np.minimum(index, size_in - 1), weight.astype(np.float32))


def area_taps_enlarging(size_in: int, size_out: int) -> Taps:
    """INTER_AREA unless both axes shrink: pixels repeated, blended only where an edge crosses one."""
    scale = size_in / size_out
    first = np.floor(np.arange(size_out) * scale).astype(np.int64)
    blend = (np.arange(size_out) + 1) - (first + 1) / scale
    blend = np.where(blend <= 0, 0.0, blend - np.floor(blend))
    return _two_taps(first, blend, size_in)


def _two_taps(first: NDArray[np.int64], blend: NDArray[np.float64], size_in: int) -> Taps:
    index = np.clip(np.stack([first, first + 1], axis=1), 0, size_in - 1)
    return Taps(index, np.stack([1 - blend, blend], axis=1).astype(np.float32))


def resample(image: NDArray[np.uint8], rows: Taps, columns: Taps) -> NDArray[np.uint8]:
    """The image, uint8 (H, W, C), as uint8 (len(rows.index), len(columns.index), C)."""
    across = _weighted_sum(_weighted_sum(image, rows, 0), columns, 1)
    return np.clip(np.rint(across), 0, 255).astype(np.uint8)


def _weighted_sum(image: NDArray[np.generic], taps: Taps, axis: int) -> NDArray[np.float32]:
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    parts = (
        np.take(image, taps.index[:, k], axis=axis) * taps.weight[:, k].reshape(shape)
        for k in range(taps.index.shape[1])
    )
    total = next(parts)
    for part in parts:
        total += part
    return total
