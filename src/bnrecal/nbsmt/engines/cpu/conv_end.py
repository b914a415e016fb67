"""A convolution's end on a processor, and whether it is torch's BatchNorm to the last bit."""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.cpu.kernels.conv_end import ARGS, LANES, SPARE_BYTES, kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import new_args, run_kernel, scratch, set_args
from bnrecal.nbsmt.engines.cpu.quantizer import empty_levels
from bnrecal.nbsmt.engines.engine import NO_NUMBA

BLOCK = 16384  # values of a unit
# Channels of the trial: whole vectors, less than one, and what torch's own vectors leave over.
TRIAL_CHANNELS = (1, 3, 16, 40, 100, 256)


def end_(y: Tensor, end: ConvEnd, target: Tensor | None = None) -> Tensor:
    """Write a convolution's end over its output, or into `target`, and return it; `end.finite` says what it holds.

    Where `end.levels` asks for them and the result is finite, its levels are returned, and nothing else is written.

    Args:
        y: float32 (N, O, H, W), of which `apply_end.can_end` is true.
        end: its residual of y's shape.
        target: of y's shape, likewise.
    """
    target = y if target is None else target
    end.finite = True
    if y.numel() == 0:
        return target
    if end.levels is not None:
        levels = empty_levels(y.shape, end.levels.signed)
        end.finite = _run(y, end, levels)
        if end.finite:
            return levels
    end.finite = _run(y, end, target)
    return target


def _run(y: Tensor, end: ConvEnd, target: Tensor) -> bool:
    """Write a convolution's end, or the levels of it, into the target; return whether it is finite."""
    channels = y.shape[1]
    lanes = math.lcm(channels, LANES)
    alpha = end.alpha.repeat(lanes // channels) if lanes > channels else end.alpha
    beta = end.beta.repeat(lanes // channels) if lanes > channels else end.beta
    residual = end.residual
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    block = lanes * max(1, BLOCK // lanes)
    not_finite = np.zeros(1, np.uint64)
    args = new_args(
        ARGS,
        source=y.data_ptr(),
        target=target.data_ptr(),
        target_bytes=target.element_size(),
        residual=0 if residual is None else residual.data_ptr(),
        alpha=alpha.data_ptr(),
        beta=beta.data_ptr(),
        values=y.numel(),
        lanes=lanes,
        block=block,
        not_finite=not_finite.ctypes.data,
        scratch=scratch("conv_end", SPARE_BYTES),
        lowest=end.lowest,
        highest=end.highest,
    )
    if target.element_size() == 1:
        assert end.levels is not None
        lowest, highest = (-128, 127) if end.levels.signed else (0, 255)
        set_args(args, inverse=inverse_scale(end.levels.step), lowest_level=lowest, highest_level=highest)
    run_kernel(kernel(), args, -(-y.numel() // block))
    return not not_finite[0]


@cache
def end_trouble() -> str:
    """Why convolutions are not ended in one pass on this processor, tried once; "" where they are."""
    if kernel() is None:
        return NO_NUMBA
    if not all(_is_torchs(channels) for channels in TRIAL_CHANNELS):
        return "torch's BatchNorm rounds otherwise here than in one fused multiply-add"
    return ""


def _is_torchs(channels: int) -> bool:
    """Return whether the kernel's bits are those of torch's BatchNorm, addition and ReLU6 for so many channels."""
    generator = torch.Generator().manual_seed(channels)
    shape = (3, channels, 7, 9)
    x, residual = (torch.randn(shape, generator=generator) for _ in range(2))
    mean, bias = (torch.randn(channels, generator=generator) for _ in range(2))
    variance, weight = (torch.rand(channels, generator=generator) + 0.1 for _ in range(2))
    alpha, beta = alpha_beta(mean, variance, weight, bias, 1e-5)
    for one in (x, x[:1, :, :1, :1], x[:, :, :1]):
        like = residual[: one.shape[0], :, : one.shape[2], : one.shape[3]]
        y = one.clone(memory_format=torch.channels_last)
        normalized = F.batch_norm(y, mean, variance, weight, bias)
        expected = F.relu6(normalized + like)
        if not torch.equal(end_(y, ConvEnd(alpha, beta, 0.0, 6.0, like)), expected):
            return False
    return True


def alpha_beta(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return what BatchNorm in evaluation multiplies with and then adds, float32 (C,) each, to torch's last bit.

    BatchNorm itself is asked: of 1, without mean and bias, it makes alpha; of 0 it makes beta.
    """
    nothing = torch.zeros_like(mean)
    shape = (1, len(mean), 1, 1)
    alpha = F.batch_norm(torch.ones_like(mean).view(shape), nothing, variance, weight, nothing, eps=eps)
    beta = F.batch_norm(nothing.view(shape), mean, variance, weight, bias, eps=eps)
    return alpha.flatten().clone(), beta.flatten().clone()
