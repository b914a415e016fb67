"""What the cost model chooses where it matters."""

import pytest
import torch
from torch import Tensor

from bnrecal.nbsmt.cpu.choice import cheapest
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.nbsmt.split import Dense


def weights(channels: int, taps: int, zeros: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(1, 128, (32, channels, taps, taps), generator=generator)
    return (w * (torch.rand(w.shape, generator=generator) >= zeros)).to(torch.int8)


@pytest.mark.parametrize(
    ("threads", "channels", "taps", "zeros", "paired", "chosen"),
    [
        (1, 16, 1, 0.02, True, Dense.ALL),  # a list's pass over the output costs more than so few products
        (1, 64, 3, 0.02, True, Dense.FULL),
        (1, 64, 3, 0.02, False, Dense.FULL),
        (1, 1, 3, 0.02, True, Dense.FULL),  # depthwise: no pairs
        (2, 16, 1, 0.02, True, Dense.ALL),
        (2, 64, 3, 0.02, True, Dense.FULL),
        (4, 64, 3, 0.02, True, Dense.FULL),
        (4, 64, 3, 0.4, True, Dense.NONE),  # pruned: three weights of four lack a partner
    ],
)
def test_choices(threads: int, channels: int, taps: int, zeros: float, paired: bool, chosen: Dense) -> None:
    assert cheapest(weights(channels, taps, zeros), SmtSpec(threads), paired) is chosen
