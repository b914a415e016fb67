"""The folded networks again, from exported tensors: how the export is compared with what it was made from."""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import batchnorms
from bnrecal.errors import BnrecalError, one_line
from bnrecal.export.plan_file import PlanFile, PlannedConv
from bnrecal.export.tensors import Tensors, entry
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.quantization.intercept import ConvCall, Handler, attach
from bnrecal.quantization.nbsmt_conv import PackedWeight


class Affine(nn.Module):
    """scale[c] * x + bias[c]: a BatchNorm layer that was not folded.

    Args:
        scale, bias: float32 (C,).
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x * scale + shift of float32 (N, C, ...)."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * self.scale.view(shape) + self.bias.view(shape)


class FoldedConv2d:
    """scale[o] * NB-SMT(q(x), weight) + bias[o], as hardware computes it: integers, then one scale and one bias.

    Attributes:
        conv: its threads, machine, arithmetic, stride, padding, dilation and groups.
        weight: int8 (O, C/groups, kh, kw), its channels in the order of the products.
        input_scale: step of the activation levels.
        permutation: int64 (C,), the input channel that takes each position; None: as they come.
    """

    def __init__(self, tensors: Tensors, conv: PlannedConv) -> None:
        name, spec = conv.name, conv.spec
        assert spec is not None, f"{name} is a float32 convolution"
        self.weight = tensors[entry(name, "weight")]
        self.scale = tensors[entry(name, "scale")]
        self.bias = tensors[entry(name, "bias")]
        self.input_scale = float(tensors[entry(name, "input_scale")])
        self.permutation = tensors.get(entry(name, "channel_order"))
        if self.permutation is not None:
            self.weight = self.weight.index_select(1, self.permutation)
        self.conv, self.spec = conv, spec
        self.packed = PackedWeight(name, self.weight, spec)

    def __call__(self, call: ConvCall) -> Tensor:
        """Answer one `conv2d` call."""
        scale, bias = (numbers.to(call.x.device).view(1, -1, 1, 1) for numbers in (self.scale, self.bias))
        return self.accumulate(call, self.levels(call.x)).float() * scale + bias

    def levels(self, x: Tensor) -> Tensor:
        """The quantized input in the order of the products: uint8, or int8 where `signed`."""
        levels = quantize_activation(x, self.input_scale, self.conv.signed)
        return levels if self.permutation is None else levels.index_select(1, self.permutation.to(levels.device))

    def accumulate(self, call: ConvCall, levels: Tensor) -> Tensor:
        """int32 (N, O, H', W')."""
        return self.packed.for_call(replace(call, geometry=self.conv.geometry)).accumulate(levels)


def folded_network(
    architecture: nn.Module, tensors: Tensors, plan: PlanFile
) -> tuple[nn.Module, dict[str, FoldedConv2d]]:
    """The integer network, from exported files alone.

    Args:
        architecture: gives the modules and where they are called; its numbers are replaced. Unchanged.

    Returns:
        The network, and its quantized convolutions by name.
    """
    network = copy.deepcopy(architecture)
    device = next(architecture.parameters()).device
    moved = {key: value.to(device) for key, value in tensors.items()}
    for name in (conv.batchnorm for conv in plan.convs if conv.batchnorm is not None):
        _replace(network, name, nn.Identity())
    for name in plan.batchnorm_kept:
        _replace(network, name, Affine(moved[entry(name, "scale")], moved[entry(name, "bias")]))
    handlers: dict[str, Handler] = {}
    quantized: dict[str, FoldedConv2d] = {}
    for conv in plan.convs:
        if conv.spec is not None:
            quantized[conv.name] = FoldedConv2d(tensors, conv)
            handlers[conv.name] = quantized[conv.name]
        elif conv.batchnorm is not None:
            handlers[conv.name] = _float_conv(moved[entry(conv.name, "weight")], moved[entry(conv.name, "bias")], conv)
    state = network.state_dict()
    network.load_state_dict({**state, **{key: moved[key] for key in state.keys() & _plain_keys(tensors, handlers)}})
    attach(network, handlers)
    return network.eval(), quantized


def _plain_keys(tensors: Tensors, handlers: dict[str, Handler]) -> set[str]:
    """Entries that modules hold themselves: not those of convolutions that a handler answers."""
    answered = {entry(name, key) for name in handlers for key in ("weight", "bias")}
    return tensors.keys() - answered


def _float_conv(weight: Tensor, bias: Tensor, conv: PlannedConv) -> Handler:
    def answer(call: ConvCall) -> Tensor:
        return F.conv2d(call.x, weight, bias, **vars(conv.geometry))

    return answer


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def load_folded_(network: nn.Module, state: Tensors) -> nn.Module:
    """Load a folded float state_dict into the stock architecture, in place.

    BatchNorm layers without entries become the identity, convolutions with a new bias get one.

    Args:
        network: the architecture with its BatchNorm layers, weights of any value.
        state: as `folded_state` makes it.

    Returns:
        `network`.
    """
    for name in batchnorms(network):
        if entry(name, "running_mean") not in state:
            _replace(network, name, nn.Identity())
    for name, module in network.named_modules():
        key = entry(name, "bias")
        if isinstance(module, nn.Conv2d) and module.bias is None and key in state:
            module.bias = nn.Parameter(torch.zeros_like(state[key], device=module.weight.device))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BnrecalError(
            f"the folded weights do not fit {type(network).__name__}: {one_line(error)[:200]}"
        ) from error
    return network
