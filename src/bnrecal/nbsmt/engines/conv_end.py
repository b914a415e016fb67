"""The end of a convolution: what a network does to its output before any other layer reads it."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bnrecal.nbsmt.geometry import Geometry, Pair


@dataclass(frozen=True)
class Levels:
    """The quantizer of the next convolution: steps of its grid in activation units, and whether levels are signed."""

    step: float
    signed: bool


@dataclass(frozen=True)
class MaxPool:
    """Max-pooling that follows a convolution's end: windows without gaps in them, the border never the largest."""

    kernel: Pair
    stride: Pair
    padding: Pair

    def output_size(self, size: Pair) -> Pair:
        """Return (H', W') from (H, W), < 1 where the window does not fit."""
        return Geometry(self.stride, self.padding, (1, 1), 1).output_size(size, self.kernel)


@dataclass(eq=False)
class ConvEnd:
    """BatchNorm in evaluation, an addition, and ReLU or ReLU6, in this order: each step is rounded to float32.

    y = clamp(fma(x, alpha, beta) + residual, lowest, highest), where x is what the convolution gives (its sums * scale
    + bias, both steps rounded), `fma` rounds once, and NaN stays NaN.

    Attributes:
        alpha: float32 (O,), contiguous, on the device: what BatchNorm multiplies with, weight / sqrt(variance + eps).
        beta: float32 (O,), likewise: what it adds, bias - mean * alpha.
        lowest: 0 for ReLU and ReLU6, -infinity without.
        highest: 6 for ReLU6, else infinity.
        residual: float32, of the output's shape, or None: added between BatchNorm and the clamp.
        levels: of the next convolution, if it alone reads the result. An engine may then give uint8 or int8 levels of a
            finite result instead of float32, or ignore it.
        beside: of the next convolution, if others read the result too. An engine may make levels of a finite result
            beside the float32 that it returns, or ignore it.
        made: those levels, written by what applies the end; None: none were made.
        finite: written by what applies it: True if the result holds no NaN and no infinity, None if nobody looked.
        kept: what a device's pass makes of alpha, beta and the clamp, by the levels that it writes, for all calls.
    """

    alpha: Tensor
    beta: Tensor
    lowest: float = -math.inf
    highest: float = math.inf
    residual: Tensor | None = None
    levels: Levels | None = None
    beside: Levels | None = None
    made: Tensor | None = None
    finite: bool | None = None
    kept: dict[Levels | None, Any] = field(default_factory=dict, repr=False)

    def adding(self, residual: Tensor | None) -> "ConvEnd":
        """Return the same end with this residual, to be applied once."""
        return ConvEnd(
            self.alpha, self.beta, self.lowest, self.highest, residual, self.levels, self.beside, kept=self.kept
        )
