"""The operands of NB-SMT as functions on integer tensors: 8-bit quantization and the reduction to 4 bits."""

from ctypes import c_float

import torch
from torch import Tensor

# What fits the narrow multiplier port as it is.
LARGEST_NARROW_ACTIVATION = 15
NARROW_WEIGHTS = (-8, 7)


def quantize_activation(x: Tensor, x_scale: float, signed: bool = False) -> Tensor:
    """round_half_even(x * float32(1 / x_scale)) clamped to 0..255 as uint8, or to -128..127 as int8 if `signed`.

    One float32 multiplication by the rounded reciprocal: every engine and device gets the same integers.
    NaN becomes 0.

    Args:
        x: float32, any shape and layout.
        x_scale: step of the grid, > 0.
    """
    lowest, highest, dtype = (-128, 127, torch.int8) if signed else (0, 255, torch.uint8)
    steps = x.float() * inverse_scale(x_scale)
    return steps.round_().clamp_(lowest, highest).nan_to_num_(0.0).to(dtype)


def inverse_scale(x_scale: float) -> float:
    """1 / x_scale rounded to float32.

    Raises:
        ValueError: unless it is positive and finite.
    """
    inverse = c_float(1.0 / x_scale).value if x_scale else 0.0
    if not 0.0 < inverse < float("inf"):
        raise ValueError(f"x_scale must be positive and finite, and so must its float32 reciprocal, not {x_scale!r}")
    return inverse


def reduce_activation(a: Tensor, rounding: str = "half_even", saturate: bool = True) -> Tensor:
    """r(a): the activation as 4 bits and a shift. 0..255 in any integer dtype, int16 out."""
    a = a.to(torch.int16)
    reduced = _to_multiple_of_16(a, rounding)
    if saturate:
        reduced = reduced.clamp(max=240)
    return torch.where(a <= LARGEST_NARROW_ACTIVATION, a, reduced)


def reduce_weight(b: Tensor, rounding: str = "half_even", saturate: bool = True) -> Tensor:
    """r(b): the weight as 4 bits and a shift. -128..127 in any integer dtype, int16 out."""
    b = b.to(torch.int16)
    reduced = _to_multiple_of_16(b, rounding)
    if saturate:
        reduced = reduced.clamp(-128, 112)
    return torch.where(is_narrow_weight(b), b, reduced)


def is_narrow_weight(b: Tensor) -> Tensor:
    """Where b fits a signed 4-bit operand as it is."""
    lowest, highest = NARROW_WEIGHTS
    return (b >= lowest) & (b <= highest)


def _to_multiple_of_16(value: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return value >> 4 << 4
    # Adding 7, or 8 where the quotient is odd, carries exactly when the remainder is over 8, or 8 with an odd quotient.
    return (value + 7 + ((value >> 4) & 1)) >> 4 << 4
