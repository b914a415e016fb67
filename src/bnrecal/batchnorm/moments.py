"""Mean and variance of each channel of a batch: the same bits whatever the number of workers or the processor.

A float32 sum depends on the order of its terms, and torch's order on how many workers share it. NB-SMT turns a last
bit into one of 16 levels now and then, and so a recalibrated cell would move by tenths of a point. Here the sums are
float64, in an order that follows from the shape alone: a batch is cut into blocks of rows, each is summed row by row,
then the blocks are added in their order.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.channel_sums import Doubles, shifted_sums

# The smallest number that rounds to infinity in float32: its largest and half of the last step before it.
_BEYOND_FLOAT32 = (2 - 2.0**-24) * 2.0**127


@dataclass(frozen=True)
class Moments:
    """Count, mean and spread of some values of each channel.

    They are few numbers, on the CPU in NumPy: a torch call of a few channels takes longer than the arithmetic in it.

    Attributes:
        count: values per channel.
        mean: float64 (C,).
        squares: float64 (C,), the sum of squared deviations from the mean.
    """

    count: int
    mean: Doubles
    squares: Doubles

    @property
    def variance(self) -> Doubles:
        """float64 (C,), the mean squared deviation."""
        return self.squares / self.count

    @property
    def unbiased_variance(self) -> Doubles:
        """float64 (C,), the squared deviations by count - 1; the count is at least 2."""
        return self.squares / (self.count - 1)

    @property
    def finite(self) -> bool:
        """True where float32 holds mean and variance: not with a NaN or an infinity among the values."""
        mean = float(np.abs(self.mean).max())
        variance = float(self.squares.max()) / self.count
        return mean < _BEYOND_FLOAT32 and variance < _BEYOND_FLOAT32  # neither holds of NaN


def batch_moments(x: Tensor) -> Moments:
    """Return the moments of each channel.

    Args:
        x: float32 (N, C, ...), at least one value per channel; fastest with the channels last in memory.
    """
    rows = x.detach().movedim(1, -1).reshape(-1, x.shape[1])  # (N * positions, C), the order of the sums
    origin, sums = shifted_sums(rows)
    count = rows.shape[0]
    with np.errstate(over="ignore", invalid="ignore"):  # of NaN and infinity, which `finite` finds
        shift = sums[0] / count
        return Moments(count, origin + shift, np.maximum(sums[1] - sums[0] * shift, 0))
