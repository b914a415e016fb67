"""Mean and variance of each channel of a batch: the same bits whatever the number of workers or the processor.

A float32 sum depends on the order of its terms, and torch's order on how many workers share it. NB-SMT turns a last
bit into one of 16 levels now and then, and so a recalibrated cell would move by tenths of a point. Here the sums are
float64, in an order that follows from the shape alone: a batch is cut into blocks of rows, each is summed row by row,
then the blocks are added in their order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.channel_sums import shifted_sums


@dataclass(frozen=True)
class Moments:
    """Count, mean and spread of some values of each channel.

    Attributes:
        count: values per channel.
        mean: float64 (C,).
        squares: float64 (C,), the sum of squared deviations from the mean.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """float64 (C,), the mean squared deviation."""
        return self.squares / self.count

    @property
    def unbiased_variance(self) -> Tensor:
        """float64 (C,); of a single value NaN."""
        return self.squares / (self.count - 1)

    @property
    def finite(self) -> bool:
        """True where float32 holds mean and variance: not with a NaN or an infinity among the values."""
        return bool(torch.isfinite(torch.stack([self.mean, self.variance]).float()).all())


def batch_moments(x: Tensor) -> Moments:
    """Return the moments of each channel.

    Args:
        x: float32 (N, C, ...), at least one value per channel; fastest with the channels last in memory.
    """
    rows = x.detach().movedim(1, -1).reshape(-1, x.shape[1])  # (N * positions, C), the order of the sums
    origin = rows[0].double()  # sums of squares lose no digits when taken about a value of the channel's own
    sums = shifted_sums(rows, origin)
    count = rows.shape[0]
    shift = sums[0] / count
    return Moments(count, origin + shift, (sums[1] - sums[0] * shift).clamp_(min=0))
