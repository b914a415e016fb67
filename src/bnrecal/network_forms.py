"""Networks as people have them: how they return logits, what wraps them, in which precision they compute."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError


def logits_of(output: object) -> object:
    """Return the logits in what a network returns: itself, under `logits`, or the first of a tuple.

    Hugging Face's outputs, GoogLeNet's named tuples and plain tuples are looked into; anything else comes back as it
    is.
    """
    if isinstance(output, Tensor):
        return output
    inside = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(inside, Tensor):
        return inside
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    return output


def return_logits_(network: nn.Module) -> None:
    """Let calls of the network return its logits alone; copies of it do so too."""
    network.register_forward_hook(_logits_alone)


def _logits_alone(_: nn.Module, __: Any, output: object) -> object:
    return logits_of(output)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside torch.compile, DataParallel and the like; any other is its own.

    Raises:
        BnrecalError: for a program of TorchScript, whose convolutions are no modules.
    """
    while True:
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = network.module
        else:
            inside = getattr(network, "_orig_mod", None)  # of torch.compile, whose class takes seconds to import
        if not isinstance(inside, nn.Module):
            break
        network = inside
    if isinstance(network, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise BnrecalError("the network is a program of TorchScript: give the nn.Module that it was made from")
    return network


def other_precisions(network: nn.Module) -> list[str]:
    """Return the precisions besides float32 that the network's parameters have, as in "float16"."""
    others = {p.dtype for p in network.parameters() if p.is_floating_point() and p.dtype != torch.float32}
    return sorted(str(dtype).removeprefix("torch.") for dtype in others)
