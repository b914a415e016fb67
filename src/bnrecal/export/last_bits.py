"""Rounding: how far folded layers are from unfolded ones, and how many predictions one last bit of noise changes.

Folding changes when numbers are rounded, so a network can only be asked to answer like the folded one as far as it
answers like itself when its numbers move by a last bit: activations between two levels take the other one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import batchnorms
from bnrecal.errors import BnrecalError
from bnrecal.export.fold import affine
from bnrecal.export.network import FoldedConv2d
from bnrecal.nbsmt.float_conv import forward
from bnrecal.quantization.intercept import ConvCall, Handler, attach, handlers

MOST_LAST_BITS = 16.0
"""Most that a folded layer may differ, in last bits of its summands: a few operations round one after another."""

_EPSILON = 2.0**-23


@contextmanager
def last_bit_noise(network: nn.Module, seed: int) -> Iterator[None]:
    """Move what every BatchNorm layer returns by one last bit of float32, up or down at random, within the block."""
    generator = torch.Generator().manual_seed(seed)

    def moved(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        up = torch.rand(output.shape, generator=generator) < 0.5
        towards = torch.where(up, torch.inf, -torch.inf).to(output.device)
        return torch.nextafter(output, towards)

    hooks = [layer.register_forward_hook(moved) for layer in batchnorms(network).values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def layer_differences(
    network: nn.Module, folded: dict[str, FoldedConv2d], into: dict[str, str], images: Tensor
) -> dict[str, float]:
    """Compare each folded convolution with its convolution and BatchNorm on the very same input.

    Args:
        network: the threaded network, unfolded; unchanged afterwards.
        folded: from `folded_network`.
        into: name of a convolution -> name of the BatchNorm that was folded into it.
        images: float32 (N, 3, H, W).

    Returns:
        Largest difference by convolution, in last bits of float32 of the largest summand of an output.
    """
    own = handlers(network)
    names = [name for name in into if name in folded]
    answers: dict[str, Tensor] = {}
    largest: dict[str, float] = {}

    def watched(name: str) -> Handler:
        def answer(call: ConvCall) -> Tensor:
            answers[name] = folded[name](call)
            return own[name](call)

        return answer

    def compare(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            difference = (answers.pop(name).double() - output.double()).abs()
            bits = difference / (_EPSILON * _summands(layer, inputs[0], folded[name].bias))
            largest[name] = max(largest.get(name, 0.0), float(bits.max()))

        return hook

    norms = batchnorms(network)
    hooks = [norms[into[name]].register_forward_hook(compare(name)) for name in names]
    try:
        attach(network, {name: watched(name) for name in names})
        forward(network, images)
    finally:
        attach(network, own)
        for one in hooks:
            one.remove()
    return largest


def _summands(layer: Any, x: Tensor, bias: Tensor) -> Tensor:
    """Return the size of what is added up for each output of a BatchNorm layer, folded or not: float64, as x."""
    gain, shift = (numbers.to(x.device).view(1, -1, 1, 1) for numbers in affine(layer))
    mean: Tensor = layer.running_mean.double().view(1, -1, 1, 1)
    sizes = (
        (gain * x.double()).abs()
        + (gain * mean).abs()
        + shift.abs()
        + bias.double().to(x.device).view(1, -1, 1, 1).abs()
    )
    return torch.clamp(sizes, min=torch.finfo(torch.float32).tiny)


def check_layers(differences: dict[str, float]) -> None:
    """Raise BnrecalError, naming it, at a folded layer that differs by more than rounding."""
    for name, bits in differences.items():
        if not bits <= MOST_LAST_BITS:
            raise BnrecalError(
                f"the folded convolution {name} differs from the unfolded one by {bits:.3g} last bits of "
                f"float32, where rounding explains {MOST_LAST_BITS:.0f}: nothing is exported"
            )
