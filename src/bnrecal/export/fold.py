"""BatchNorm folded into the convolution before it: where it can be, and with which numbers.

In eval mode a BatchNorm layer is gain[c] * x + shift[c]. Where its input is the output of one convolution and of
nothing else, that is a change of the convolution's scale and bias; its integer weights stay as they are.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnrecal.batchnorm.recalibrate import batchnorms
from bnrecal.errors import first_line
from bnrecal.nbsmt.float_conv import forward
from bnrecal.quantization.chains import Tracer
from bnrecal.quantization.intercept import ConvCall, Handler, attached, conv_modules


@dataclass(frozen=True)
class Folding:
    """The BatchNorm layers of a network.

    Attributes:
        into: the folded ones: name of the convolution -> name of its BatchNorm.
        kept: name of every other one -> why it cannot be folded.
    """

    into: dict[str, str]
    kept: dict[str, str]


@dataclass(frozen=True)
class TracedConv:
    """The way in which a convolution module uses its `conv2d` call.

    Attributes:
        calls: `conv2d` calls in one forward of the network.
        weight, bias: as they reached the product (some modules standardise the weight first).
        plain: it is one call, with the module's own weight and bias, and its result is the module's.
    """

    calls: int
    weight: Tensor
    bias: Tensor | None
    plain: bool


@torch.no_grad()
def trace_convolutions(network: nn.Module, images: Tensor) -> dict[str, TracedConv]:
    """Return what each convolution module that is called does around its product, by name.

    Args:
        network: float32, in eval mode; unchanged afterwards.
        images: float32 (N, 3, H, W), at least one.
    """
    modules = conv_modules(network)
    traced: dict[str, TracedConv] = {}
    results: dict[str, Tensor] = {}

    def watch(name: str, conv: nn.Conv2d) -> Handler:
        def answer(call: ConvCall) -> Tensor:
            calls = traced[name].calls + 1 if name in traced else 1
            own = call.weight is conv.weight and call.bias is conv.bias
            traced[name] = TracedConv(calls, call.weight.detach(), call.bias, plain=own and calls == 1)
            results[name] = call.run()
            return results[name]

        return answer

    def check_output(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if name in traced and output is not results[name]:
                traced[name] = replace(traced[name], plain=False)

        return hook

    hooks = [conv.register_forward_hook(check_output(name)) for name, conv in modules.items()]
    try:
        with attached(network, {name: watch(name, conv) for name, conv in modules.items()}, strict=lambda _: False):
            forward(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    return traced


def find_folds(network: nn.Module, traced: dict[str, TracedConv]) -> Folding:
    """Find the BatchNorm layers that fold, from the network's graph.

    Args:
        network: float32, in eval mode.
        traced: from `trace_convolutions`.

    Returns:
        Every BatchNorm layer of the network, in one of the two mappings. A network that `torch.fx` cannot trace
        (its control flow follows the images) keeps them all.
    """
    layers = batchnorms(network)
    try:
        graph = Tracer().trace(network)
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError) as error:  # what users' code may
        return Folding({}, dict.fromkeys(layers, f"torch.fx cannot trace the network ({first_line(error)})"))
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    into: dict[str, str] = {}
    kept = {name: f"is called {calls[name]} times" for name in layers if calls[name] != 1}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in layers and node.target not in kept:
            reason = _obstacle(node, network, calls, traced)
            if reason:
                kept[node.target] = reason
            else:
                into[node.args[0].target] = node.target
    return Folding(into, {name: kept[name] for name in layers if name in kept})


def _obstacle(node: fx.Node, network: nn.Module, calls: "Counter[Any]", traced: dict[str, TracedConv]) -> str:
    """Why the BatchNorm called at `node` cannot be folded; empty if it can."""
    layer = network.get_submodule(str(node.target))
    before = node.args[0] if node.args else None
    if type(layer).forward is not _BatchNorm.forward:
        return f"{type(layer).__name__} has a forward of its own"
    if not isinstance(before, fx.Node) or before.op != "call_module":
        return f"follows {_described(before)}, not a convolution"
    name = str(before.target)
    if not isinstance(network.get_submodule(name), nn.Conv2d):
        return f"follows {name}, not a convolution"
    if calls[name] != 1:
        return f"follows {name}, which is called {calls[name]} times"
    if len(before.users) != 1:
        return f"follows {name}, whose output is used elsewhere too"
    if name not in traced or not traced[name].plain:
        return f"follows {name}, whose forward does more than its convolution"
    if any(module is not network.get_submodule(name) for module in _owners(network, traced[name].weight)):
        return f"follows {name}, which shares its weight with another module"
    return ""


def _owners(network: nn.Module, weight: Tensor) -> list[nn.Module]:
    address = weight.data_ptr()
    owners = []
    for module in network.modules():
        if address in [parameter.data_ptr() for parameter in module.parameters(recurse=False)]:
            owners.append(module)
    return owners


def _described(argument: Any) -> str:
    if not isinstance(argument, fx.Node):
        return "a constant"
    if argument.op == "placeholder":
        return "the network's input"
    return getattr(argument.target, "__name__", str(argument.target))


def affine(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Gain and shift, float64 (C,) on the CPU, of a BatchNorm layer in eval mode: gain[c] * x + shift[c]."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean = layer.running_mean.double().cpu()
    variance = layer.running_var.double().cpu()
    gamma = torch.ones_like(mean) if layer.weight is None else layer.weight.detach().double().cpu()
    beta = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().double().cpu()
    gain = gamma / torch.sqrt(variance + layer.eps)
    return gain, beta - mean * gain
