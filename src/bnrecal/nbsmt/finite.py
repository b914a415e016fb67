"""NaN and infinity, refused where they come in: an 8-bit level hides them, and they would end as a plausible number."""

import math

import torch
from torch import Tensor

from bnrecal.errors import BnrecalError


def all_finite(x: Tensor) -> bool:
    """Return whether a tensor of any shape holds no NaN and no infinity; exact."""
    # One pass and no copy: a sum carries every NaN and infinity. Where finite values overflow it, each is looked at.
    if x.device.type == "cpu" and x.is_floating_point() and math.isfinite(float(x.detach().sum())):
        return True
    return bool(torch.isfinite(x).all())


def check_images(images: Tensor, what: str) -> None:
    """Raise BnrecalError for a batch without images, or with NaN or infinity in them.

    Args:
        images: (N, ...).
        what: names the batch in the message, as in "calibration batch 3".
    """
    if len(images) == 0:
        raise BnrecalError(f"{what} has no images, {tuple(images.shape)}: leave it out")
    if not all_finite(images):
        raise BnrecalError(f"{what} has NaN or infinity in its images: mend those images or leave them out")
