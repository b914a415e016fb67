"""The end of a convolution as a pass of its own, on each kind of device, and what it is worth there."""

from enum import Enum

import torch
from torch import Tensor

from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.cpu import conv_end as on_cpu


class Ending(Enum):
    """The worth of `apply_end_` on a device."""

    NONE = "none"  # not there
    EQUAL = "equal"  # the bits of torch's BatchNorm, addition and clamp
    CLOSE = "close"  # other last bits: to be used for every network of a comparison, or for none


def ending(device: torch.device) -> Ending:
    """Return what the end of a convolution in one pass is worth on a device; tried once."""
    if device.type == "cpu" and not on_cpu.end_trouble():
        return Ending.EQUAL
    return Ending.NONE


def ending_trouble(device: torch.device) -> str:
    """Why `ending` is NONE, in one line; "" where it is not."""
    if device.type == "cpu":
        return on_cpu.end_trouble()
    return f"no kernel for it on {device.type}"


def can_end(x: Tensor) -> bool:
    """Return whether `apply_end_` takes a tensor of this type and layout, where `ending` is not NONE."""
    return on_cpu.is_dense(x)


def apply_end_(y: Tensor, end: ConvEnd, target: Tensor | None = None) -> Tensor:
    """Write a convolution's end over its output, or into `target`, and return it; or the levels that `end` asks for.

    Args:
        y: float32 (N, O, H, W) of which `can_end` is true, as what engines return; the residual is of its shape.
        target: another such tensor of y's shape.
    """
    return on_cpu.end_(y, end, target)
