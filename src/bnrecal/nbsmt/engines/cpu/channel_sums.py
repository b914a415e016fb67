"""Two sums of each channel, whose bits do not depend on how many workers share them."""

from functools import lru_cache
from threading import get_ident

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels.channel_sums import ARGS, moments_kernel, squares_kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import Kernel, new_args, run_kernel, set_args

Doubles = npt.NDArray[np.float64]

BLOCK = 16384  # values of a unit: they stay in a worker's first-level cache
LANES = 64  # sums side by side: rows of fewer channels are taken several at a time


def shifted_sums(rows: Tensor) -> tuple[Doubles, Doubles]:
    """Return an origin, float64 (C,), and float64 (2, C): the sums of x - origin and of (x - origin)^2 by channel.

    The origin is a value of each channel's own, so that sums of squares about it lose no digits: its first.

    Args:
        rows: float32 (n, C), n at least 1.
    """
    if rows.device.type != "cpu" or rows.dtype != torch.float32 or moments_kernel() is None:
        return shifted_sums_ref(rows)
    rows = rows.contiguous()
    kept = _kept_sums(rows.numel(), rows.shape[1], get_ident())
    kept.origins[:] = rows.numpy()[0]
    sums = kept.of(moments_kernel, rows, kept.origins.ctypes.data)
    return kept.origins[0].copy(), sums


def shifted_sums_ref(rows: Tensor) -> tuple[Doubles, Doubles]:
    """Return the same in plain torch, block after block; the last bits may differ."""
    total = torch.zeros(2, rows.shape[1], dtype=torch.float64, device=rows.device)
    origin = rows[0].double()
    height = max(1, 2**24 // rows.shape[1])
    for first in range(0, rows.shape[0], height):
        shifted = rows[first : first + height].double().sub_(origin)
        total[0] += shifted.sum(0)
        total[1] += shifted.square_().sum(0)
    return origin.cpu().numpy(), total.cpu().numpy()


def squared_sums(sums: Tensor, exact: Tensor) -> Tensor:
    """Return float64 (2, C): the sums of (sums - exact)^2 and of exact^2 over all but the channels.

    Args:
        sums, exact: int32 (N, C, H, W), differing by less than 2^31; fastest channels-last.
    """
    if sums.device.type != "cpu" or squares_kernel() is None:
        return squared_sums_ref(sums, exact)
    channels = sums.shape[1]
    first = sums.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    second = exact.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    kept = _kept_sums(first.numel(), channels, get_ident())
    return torch.from_numpy(kept.of(squares_kernel, first, second.data_ptr()))


def squared_sums_ref(sums: Tensor, exact: Tensor) -> Tensor:
    """Return the same in plain torch; the last bits may differ."""
    errors = (sums - exact).double()
    squares = exact.double()
    return torch.stack([errors.square_().sum((0, 2, 3)), squares.square_().sum((0, 2, 3))])


def _lanes(channels: int) -> int:
    return channels * max(1, LANES // channels)


class _Sums:
    """All that the sums of so many values of so many channels take besides the values.

    It is kept: to make these few small objects anew takes longer than to add up a small layer.

    Attributes:
        origins: float64 (lanes / C, C), for the kernel that takes them.
    """

    def __init__(self, values: int, channels: int) -> None:
        lanes = _lanes(channels)
        block = lanes * max(1, BLOCK // lanes)
        self.channels = channels
        self.units = -(-values // block)
        self.origins = np.empty((lanes // channels, channels))
        self.by_unit = np.empty((self.units, 2, lanes))
        self.args = new_args(ARGS, sums=self.by_unit.ctypes.data, values=values, lanes=lanes, block=block)

    def of(self, kernel: Kernel, first: Tensor, second: int) -> Doubles:
        """Return float64 (2, C), what a kernel of `kernels.channel_sums` makes of all values of `first`.

        Args:
            second: address of what the kernel takes besides.
        """
        set_args(self.args, first=first.data_ptr(), second=second)
        run_kernel(kernel(), self.args, self.units)
        # Along the first axis NumPy adds in order: unit after unit, then the lanes of one channel.
        by_lane = np.add.reduce(self.by_unit, axis=0).reshape(2, -1, self.channels)
        total: Doubles = np.add.reduce(by_lane, axis=1)
        return total


@lru_cache(maxsize=256)  # a network has fewer shapes; all of them hold some hundredth of the values they were made for
def _kept_sums(values: int, channels: int, thread: int) -> _Sums:  # noqa: ARG001  # threads share none
    return _Sums(values, channels)
