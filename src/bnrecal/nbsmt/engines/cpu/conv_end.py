"""A convolution's end on a processor, and whether it is torch's BatchNorm to the last bit."""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels
from bnrecal.nbsmt.engines.cpu.kernels.conv_end import ARGS, SPARE_BYTES, kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import Args, OwnArgs, new_args, run_kernel, scratch, set_args
from bnrecal.nbsmt.engines.cpu.kernels.simd_f32 import LANES
from bnrecal.nbsmt.engines.cpu.quantizer import empty_levels
from bnrecal.nbsmt.engines.engine import NO_NUMBA

BLOCK = 16384  # values of a unit
LEAST_LANES = 1024  # of a row: few channels are repeated, so that the kernel seldom begins anew
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
    if y.numel() == 0:
        end.finite = True
        return y if target is None else target
    if end.levels is not None:
        end_pass = EndPass(end, y.shape)
        end_pass.take(y, 0)
        if end.finite:
            return end_pass.close()
    end_pass = EndPass(end, y.shape, y if target is None else target)
    end_pass.take(y, 0)
    return end_pass.close()


class EndPass:
    """The end of a convolution's output, image by image or of many at once; `end.finite` becomes what they hold."""

    def __init__(self, end: ConvEnd, shape: torch.Size, target: Tensor | None = None) -> None:
        """Prepare to write what the end asks for: levels alone, or float32, and levels beside it where it wants them.

        Args:
            shape: (N, O, H, W) of the result.
            target: where to write float32 whatever the end asks for, channels-last and without gaps.
        """
        end.finite = True
        self.end = end
        if target is None and end.levels is None:
            target = torch.empty(shape, memory_format=torch.channels_last)
        self.target = target
        written = end.levels if target is None else end.beside
        self.levels = None if written is None else empty_levels(shape, written.signed)
        residual = end.residual
        self.residual = None if residual is None else residual.contiguous(memory_format=torch.channels_last)
        self.values = math.prod(shape[1:])  # of an image
        if written not in end.kept:
            end.kept[written] = _EndArgs(end, written)
        self.kept: _EndArgs = end.kept[written]

    def take(self, y: Tensor, first: int) -> None:
        """Write the end of images first, first + 1, ... of which y is the convolution's output, as of `end_`."""
        values = y.shape[0] * self.values
        args = self.args_from(first)
        args["source"] = y.data_ptr()
        args["values"] = values
        args["scratch"] = scratch("conv_end", SPARE_BYTES)
        run_kernel(kernel(), args, -(-values // self.kept.block))
        self.note(args)

    def args_from(self, first: int) -> Args:
        """Return the record by which a kernel writes the end of image `first` and the next.

        `note` it afterwards, before the next one is asked for.
        """
        at = first * self.values
        args = self.kept.own.args
        args["target"] = 0 if self.target is None else self.target.data_ptr() + 4 * at
        args["levels"] = 0 if self.levels is None else self.levels.data_ptr() + at
        args["residual"] = 0 if self.residual is None else self.residual.data_ptr() + 4 * at
        args["not_finite"] = 0
        return args

    def note(self, args: Args) -> None:
        """Take up what a kernel found out."""
        if args["not_finite"]:
            self.end.finite = False

    def close(self) -> Tensor:
        """Return float32, and hand on the levels beside it; or return the levels, where they alone were written."""
        if self.target is None:
            assert self.levels is not None
            return self.levels
        self.end.made = self.levels if self.end.finite else None
        return self.target


class _EndArgs:
    """A record of what every call of an end has in common, and the tensors that it points to."""

    def __init__(self, end: ConvEnd, levels: Levels | None) -> None:
        channels = len(end.alpha)
        lanes = math.lcm(channels, LANES)
        lanes *= -(-LEAST_LANES // lanes)
        self.block = lanes * max(1, BLOCK // lanes)
        self.alpha = end.alpha.repeat(lanes // channels)
        self.beta = end.beta.repeat(lanes // channels)
        args = new_args(
            ARGS,
            alpha=self.alpha.data_ptr(),
            beta=self.beta.data_ptr(),
            lanes=lanes,
            block=self.block,
            lowest=end.lowest,
            highest=end.highest,
        )
        if levels is not None:
            inverse = inverse_scale(levels.step)
            # A product with a positive number, rounded, keeps the order, so that both clamps are one. Their bounds are
            # whole numbers, so that it does not matter whether levels are rounded before them or after.
            bounds = (-128.0, 127.0) if levels.signed else (0.0, 255.0)
            least = _clamp(_product(end.lowest, inverse), *bounds)
            most = _clamp(_product(end.highest, inverse), *bounds)
            set_args(args, inverse=inverse, least=least, most=most)
        self.own = OwnArgs(args)


def _product(a: float, b: float) -> float:
    """Return a * b as float32 rounds it."""
    with np.errstate(over="ignore"):
        return float(np.float32(a) * np.float32(b))


def _clamp(value: float, lowest: float, highest: float) -> float:
    return min(max(value, lowest), highest)


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
