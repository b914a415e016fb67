"""The least time that this engine could take: oneDNN's 8-bit sums and the float32 layers, with nothing in between."""

import copy

import torch
from torch import Tensor, nn

from bnrecal.benchmark.networks import Built
from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, OneDnnConv
from bnrecal.nbsmt.engines.engine import ConvLayer, unfolded
from bnrecal.quantization.intercept import ConvCall, Handler, attach

ABSORBED = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6)  # layers that one pass at the end of a convolution could take in


def floor_network(network: nn.Module, threaded: Built) -> nn.Module | None:
    """Make a network that takes the least time, for inputs of one shape, and computes nothing of use.

    A convolution whose dense sums oneDNN does in 8 bits becomes these sums alone, of operands that are there already.
    BatchNorm and ReLU are left out. Everything else, depthwise convolutions included, is as in `network`. The sparse
    part of the weights is left out: where all weights are in it (4T, P40), the floor is that of the float32 layers.

    Args:
        network: float32, in eval mode.
        threaded: the same network threaded, after a call.

    Returns:
        None where no convolution is oneDNN's (on a GPU).
    """
    handlers: dict[str, Handler] = {}
    for name, layer in threaded.layers.items():
        (prepared,) = layer.packed.convolutions()
        engine = unfolded(prepared.engine)
        if isinstance(engine, DenseSparseEngine) and engine.exactness is not Exactness.NONE:
            handlers[name] = _SumsAlone(prepared.layer, len(engine.operands))
    if not handlers:
        return None
    bare = _without_absorbed(copy.deepcopy(network))
    attach(bare, handlers)
    return bare


class _SumsAlone:
    """Answers a convolution with zeros, after the 8-bit sums of so many operands a channel.

    Weights, operands and the answer are made at the first call, for its shape.
    """

    def __init__(self, layer: ConvLayer, operands: int) -> None:
        self.layer = layer
        self.operands = operands
        self.conv: OneDnnConv | None = None
        self.levels = torch.empty(0)
        self.answer: Tensor | None = None

    def __call__(self, call: ConvCall) -> Tensor:
        if self.answer is None:
            self.answer = torch.zeros(self.layer.output_shape(call.x)).contiguous(memory_format=torch.channels_last)
            if self.operands:
                self._make_sums(call)
        if self.conv is not None:
            self.conv.sums(self.levels)
        return self.answer

    def _make_sums(self, call: ConvCall) -> None:
        folded = self.layer.folded
        images, channels, height, width = self.layer.fold(call.x).shape
        filters, per_group, *kernel = folded.weight.shape
        weight = torch.randint(-64, 64, (filters, self.operands * per_group, *kernel)).to(torch.int8)
        levels = torch.randint(0, 256, (images, self.operands * channels, height, width)).to(torch.uint8)
        self.levels = levels.contiguous(memory_format=torch.channels_last)
        self.conv = OneDnnConv(lambda: weight, folded.geometry)


def _without_absorbed(network: nn.Module) -> nn.Module:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ABSORBED):
                setattr(module, name, nn.Identity())
    return network
