"""A convolution's end on a GPU: the arguments by which kernels learn of it, and as a pass of its own."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.gpu.kernels import conv_end as kernels
from bnrecal.nbsmt.engines.gpu.tuning import INTERPRETED, current, launch

BLOCK = 16384 if INTERPRETED else 1024  # values of a program


@dataclass(frozen=True)
class Output:
    """The fate of int32 sums: as they are; or times `scale`, plus `bias`, float32; and then `end`.

    Attributes:
        scale: float32 (O,), or None.
        bias: float32 (O,), or None.
        end: what follows, or None; only with a scale.
    """

    scale: Tensor | None = None
    bias: Tensor | None = None
    end: ConvEnd | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type that is written."""
        if self.scale is None:
            return torch.int32
        return torch.float32 if self.end is None else written_type(self.end)

    def of(self, images: slice) -> "Output":
        """The same for some of the images."""
        if self.end is None or self.end.residual is None:
            return self
        return replace(self, end=replace(self.end, residual=self.end.residual[images]))

    def arguments(self, y: Tensor) -> dict[str, Any]:
        """The arguments of a kernel; y stands for tensors that are not there."""
        return {
            "scale": y if self.scale is None else self.scale,
            "bias": y if self.bias is None else self.bias,
            "FLOAT": self.scale is not None,
            "BIAS": self.bias is not None,
            **end_arguments(y, self.end),
        }


def written_type(end: ConvEnd) -> torch.dtype:
    """Return the type that an end writes: levels where it asks for them, whether or not the result is finite."""
    if end.levels is None:
        return torch.float32
    return torch.int8 if end.levels.signed else torch.uint8


def end_arguments(y: Tensor, end: ConvEnd | None) -> dict[str, Any]:
    """The arguments of kernels that say what follows a convolution, if anything does."""
    if end is None:
        unused = dict.fromkeys(("alpha", "beta", "residual"), y)
        numbers = dict.fromkeys(("lowest", "highest", "level_inverse"), 0.0)
        return {**unused, **numbers, "END": False, "RESIDUAL": False, "LEVELS": False, "LEVELS_SIGNED": False}
    residual = y
    if end.residual is not None:
        residual = end.residual.contiguous(memory_format=torch.channels_last)
    levels = end.levels
    return {
        "alpha": end.alpha,
        "beta": end.beta,
        "residual": residual,
        "lowest": end.lowest,
        "highest": end.highest,
        "level_inverse": 0.0 if levels is None else inverse_scale(levels.step),
        "END": True,
        "RESIDUAL": end.residual is not None,
        "LEVELS": levels is not None,
        "LEVELS_SIGNED": levels is not None and levels.signed,
    }


def end_(x: Tensor, end: ConvEnd, target: Tensor | None = None) -> Tensor:
    """Write a convolution's end over its output, or into `target`; or return its levels, if it asks for them.

    Args:
        x: float32 (N, O, H, W), channels-last, without gaps.
        target: likewise, of x's shape.
    """
    dtype = written_type(end)
    y = torch.empty_like(x, dtype=dtype) if dtype != torch.float32 else x if target is None else target
    values = x.numel()
    if values:
        arguments = end_arguments(y, end)
        del arguments["END"]
        with current(x.device):
            launch(
                kernels.end_values, (triton.cdiv(values, BLOCK),),
                x=x, y=y, values=values, filters=x.shape[1], BLOCK=BLOCK, **arguments,
            )  # fmt: skip
    return y
