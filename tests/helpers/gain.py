"""A network that one argument changes and no weight shows."""

import torch
from torch import Tensor, nn

from helpers.nets import glyph_net


class Gain(nn.Module):
    """Sees its images `gain` times as strong."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.network = glyph_net()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(torch.sigmoid(self.gain * x))
        return logits


def gain_net(gain: float = 1.0) -> nn.Module:
    """The factory."""
    return Gain(gain)
