"""A device computes exactly, or no number comes out of it."""

import torch

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec


def check_exact(device: torch.device) -> None:
    """Compare one small layer at 1, 2 and 4 threads with the per-MAC reference, to the last bit.

    Raises:
        BnrecalError: if the device computes anything else.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, 8, 4, 4), generator=generator, dtype=torch.uint8)
    x[torch.rand(x.shape, generator=generator) < 0.4] = 0
    w = torch.randint(-128, 128, (4, 8, 3, 3), generator=generator, dtype=torch.int8)
    for threads in (1, 2, 4):
        prepared = PreparedConv2d(w, SmtSpec(threads), stride=1, padding=1, dilation=1, groups=1, device=device)
        found = prepared.accumulate(x.to(device)).cpu()
        if not torch.equal(found.long(), reference.conv2d(x, w, threads=threads, padding=(1, 1)).long()):
            raise BnrecalError(f"device={device} does not compute NB-SMT exactly with {threads} threads: choose cpu")
