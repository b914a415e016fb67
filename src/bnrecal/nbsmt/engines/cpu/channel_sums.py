"""Two sums of each channel, whose bits do not depend on how many workers share them."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels.channel_sums import ARGS, moments_kernel, squares_kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import Kernel, buffer, new_args, run_kernel

Doubles = npt.NDArray[np.float64]

BLOCK = 16384  # values of a unit: they stay in a worker's first-level cache
LANES = 64  # sums side by side: rows of fewer channels are taken several at a time


def shifted_sums(rows: Tensor, origin: Doubles) -> Doubles:
    """Return float64 (2, C): the sums of x - origin and of (x - origin)^2 by channel.

    Args:
        rows: float32 (n, C).
        origin: float64 (C,).
    """
    if rows.device.type != "cpu" or rows.dtype != torch.float32 or moments_kernel() is None:
        return shifted_sums_ref(rows, origin)
    channels = rows.shape[1]
    times = _lanes(channels) // channels
    origin_by_lane = np.tile(origin, times) if times > 1 else origin
    return _sums(moments_kernel, rows.contiguous(), origin_by_lane.ctypes.data, channels)


def shifted_sums_ref(rows: Tensor, origin: Doubles) -> Doubles:
    """Return the same in plain torch, block after block; the last bits may differ."""
    total = torch.zeros(2, rows.shape[1], dtype=torch.float64, device=rows.device)
    start = torch.from_numpy(origin).to(rows.device)
    height = max(1, 2**24 // rows.shape[1])
    for first in range(0, rows.shape[0], height):
        shifted = rows[first : first + height].double().sub_(start)
        total[0] += shifted.sum(0)
        total[1] += shifted.square_().sum(0)
    return total.cpu().numpy()


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
    return torch.from_numpy(_sums(squares_kernel, first, second.data_ptr(), channels))


def squared_sums_ref(sums: Tensor, exact: Tensor) -> Tensor:
    """Return the same in plain torch; the last bits may differ."""
    errors = (sums - exact).double()
    squares = exact.double()
    return torch.stack([errors.square_().sum((0, 2, 3)), squares.square_().sum((0, 2, 3))])


def _lanes(channels: int) -> int:
    return channels * max(1, LANES // channels)


def _sums(kernel: Kernel, first: Tensor, second: int, channels: int) -> Doubles:
    """Return float64 (2, C), what a kernel of `kernels.channel_sums` makes of all values of `first`.

    Args:
        second: address of what the kernel takes besides.
    """
    values = first.numel()
    lanes = _lanes(channels)
    block = lanes * max(1, BLOCK // lanes)
    units = -(-values // block)
    sums = buffer("channel sums", units * 2 * lanes * 8)  # fresh pages would take longer than the sums
    args = new_args(
        ARGS,
        first=first.data_ptr(),
        second=second,
        sums=sums.data_ptr(),
        values=values,
        lanes=lanes,
        block=block,
    )
    run_kernel(kernel(), args, units)
    # Along the first axis NumPy adds in order: unit after unit, then the lanes of one channel.
    by_unit = sums.numpy().view(np.float64).reshape(units, 2, lanes)
    by_lane = np.add.reduce(by_unit, axis=0).reshape(2, -1, channels)
    total: Doubles = np.add.reduce(by_lane, axis=1)
    return total
