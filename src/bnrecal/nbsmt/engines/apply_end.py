"""The end of a convolution as a pass of its own, on each kind of device, and what it is worth there."""

from enum import Enum

import torch
from torch import Tensor

from bnrecal.nbsmt.engines.conv_end import ConvEnd, MaxPool
from bnrecal.nbsmt.engines.cpu import conv_end as on_cpu
from bnrecal.nbsmt.engines.cpu.pooled_end import end_pooled
from bnrecal.nbsmt.engines.gpu.choose import triton_runs, triton_trouble


class Ending(Enum):
    """The worth of `apply_end_` on a device."""

    NONE = "none"  # not there
    TORCHS = "torch's"  # the bits of torch's BatchNorm, addition and clamp
    OWN = "own"  # of torch's addition and clamp, but not of its BatchNorm


def ending(device: torch.device) -> Ending:
    """Return what the end of a convolution in one pass is worth on a device; tried once."""
    if device.type == "cpu":
        return Ending.NONE if on_cpu.end_trouble() else Ending.TORCHS
    return Ending.OWN if device.type == "cuda" and triton_runs(device) else Ending.NONE


def ending_trouble(device: torch.device) -> str:
    """Why `ending` is NONE, in one line; "" where it is not."""
    if device.type == "cpu":
        return on_cpu.end_trouble()
    if ending(device) is not Ending.NONE:
        return ""
    return triton_trouble(device) or f"no kernel for it on this {device.type}"


def can_end(x: Tensor) -> bool:
    """Return whether `apply_end_` takes a tensor of this type and layout, where `ending` is not NONE."""
    return x.dim() == 4 and x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)


def apply_end_(y: Tensor, end: ConvEnd, target: Tensor | None = None) -> Tensor:
    """Write a convolution's end over its output, or into `target`, and return it; or the levels that `end` asks for.

    Args:
        y: float32 (N, O, H, W) of which `can_end` is true, as what engines return; the residual is of its shape.
        target: another such tensor of y's shape.
    """
    if y.device.type == "cpu":
        return on_cpu.end_(y, end, target)
    from bnrecal.nbsmt.engines.gpu import conv_end as on_gpu  # (imports Triton)

    return on_gpu.end_(y, end, target)


def apply_pooled_end(y: Tensor, end: ConvEnd, pool: MaxPool) -> Tensor | None:
    """Return a convolution's end, pooled, or its levels, if `end` asks for them; None where no one pass does it.

    Args:
        y: as of `apply_end_`; it stays as it is.
        end: without a residual; its levels are those of the pooled result.
    """
    return end_pooled(y, end, pool) if y.device.type == "cpu" else None


def alpha_beta(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return what BatchNorm in evaluation multiplies with and then adds, float32 (C,) each.

    On a processor they have the bits of torch's own; elsewhere they are computed in float64 and rounded once.
    """
    if mean.device.type == "cpu":
        return on_cpu.alpha_beta(mean, variance, weight, bias, eps)
    alpha = 1.0 / (variance.double() + eps).sqrt()
    if weight is not None:
        alpha = alpha * weight.double()
    beta = -mean.double() * alpha
    if bias is not None:
        beta = beta + bias.double()
    return alpha.float(), beta.float()
