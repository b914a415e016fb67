"""A8W8 min-max quantization (paper section 3; activations themselves are quantized by `bnrecal.nbsmt`)."""

import torch
from torch import Tensor

LEVELS = 255  # an unsigned 8-bit range, or a symmetric signed one from -127.5 to 127.5


def activation_scale(range_: float, *, signed: bool) -> float:
    """Step between neighbouring activation levels, in the activation's units.

    Args:
        range_: largest activation (largest magnitude where `signed`) that is represented, >= 0.
        signed: symmetric around zero, for the inputs that go negative.
    """
    if range_ == 0:
        return 1.0  # a dead input: every value is level 0 under any scale
    return (2 if signed else 1) * range_ / LEVELS


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric signed per-output-channel quantization; a zero weight stays zero.

    Args:
        weight: float32 (O, ...), finite.

    Returns:
        int8 levels of the same shape in -128..127, and the float32 scale (O,), 2 * max|w| / 255 per channel.
    """
    largest = weight.abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, 2 * largest / LEVELS, torch.ones_like(largest))
    levels = torch.round(weight / scale.view(-1, *[1] * (weight.dim() - 1))).clamp(-128, 127)
    return levels.to(torch.int8), scale
