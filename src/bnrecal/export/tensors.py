"""The numbers of an exported network: integer weights with folded scales and biases, and a folded float state_dict."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import batchnorms
from bnrecal.errors import BnrecalError
from bnrecal.export.fold import Folding, TracedConv, affine
from bnrecal.quantization.layer_plan import FLOAT, LayerPlan
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

Tensors = dict[str, Tensor]


def entry(name: str, key: str) -> str:
    """`name.key`, or `key` for a network that is itself the layer."""
    return f"{name}.{key}".removeprefix(".")


def _gain_and_bias(network: nn.Module, folding: Folding, name: str, traced: TracedConv) -> tuple[Tensor, Tensor]:
    """A convolution with its BatchNorm, if it has one that folds, is gain * (w * x) + bias; float64 (O,) on the CPU."""
    filters = traced.weight.shape[0]
    bias = torch.zeros(filters).double() if traced.bias is None else traced.bias.detach().double().cpu()
    if name not in folding.into:
        return torch.ones(filters).double(), bias
    gain, shift = affine(batchnorms(network)[folding.into[name]])
    return gain, bias * gain + shift


def exported_tensors(
    network: nn.Module,
    plans: Sequence[LayerPlan],
    layers: dict[str, NBSMTConv2d],
    folding: Folding,
    traced: dict[str, TracedConv],
) -> Tensors:
    """Everything that the folded network computes with, by name, on the CPU.

    Of a quantized convolution: `weight` int8 (O, C/groups, kh, kw), `scale` float32 (O,), `bias` float32 (O,),
    `input_scale` float64 (), and `channel_order` int64 (C,) where channels were reordered; its output is
    scale[o] * accumulator + bias[o], its input level round_half_even(x * float32(1 / input_scale)), clamped. Of a float
    convolution with a plain forward: `weight` and `bias` float32, folded. Of a BatchNorm that is not folded: `scale`
    and `bias`, float32 (C,). Everything else under its state_dict name.

    Args:
        network: the threaded network, whose BatchNorm statistics count.
    """
    tensors: Tensors = {}
    for plan in plans:
        name = plan.name
        gain, bias = _gain_and_bias(network, folding, name, traced[name])
        if plan.threads != FLOAT:
            _check_bias(network, name, traced[name])
            tensors |= _quantized(name, layers[name], gain, bias)
        elif traced[name].plain:
            tensors[entry(name, "weight")] = scaled(traced[name].weight, gain)
            tensors[entry(name, "bias")] = bias.float()
    for name in folding.kept:
        gain, shift = affine(batchnorms(network)[name])
        tensors |= {entry(name, "scale"): gain.float(), entry(name, "bias"): shift.float()}
    return {**_without_batchnorm(network), **tensors}


def folded_state(network: nn.Module, folding: Folding, traced: dict[str, TracedConv]) -> Tensors:
    """A float32 state_dict for the same architecture with every folded BatchNorm replaced by the identity.

    Convolutions with a folded BatchNorm have a `bias`, also those built without one. BatchNorm layers that stay keep
    their entries, with the statistics of `network`.
    """
    gone = tuple(f"{name}." for name in folding.into.values())
    state = {key: value.detach().cpu() for key, value in network.state_dict().items() if not key.startswith(gone)}
    for name in folding.into:
        gain, bias = _gain_and_bias(network, folding, name, traced[name])
        state[entry(name, "weight")] = scaled(traced[name].weight, gain)
        state[entry(name, "bias")] = bias.float()
    return state


def scaled(weight: Tensor, gain: Tensor) -> Tensor:
    """gain[o] * weight[o, ...], rounded once to float32, on the CPU."""
    return (weight.double().cpu() * gain.view(-1, 1, 1, 1)).float().contiguous()


def _quantized(name: str, layer: NBSMTConv2d, gain: Tensor, bias: Tensor) -> Tensors:
    step = layer.input_scale * layer.weight_scale.double().cpu()
    permutation = {} if layer.permutation is None else {entry(name, "channel_order"): layer.permutation}
    return {
        **permutation,
        entry(name, "weight"): layer.weight.contiguous(),
        entry(name, "scale"): (step * gain).float(),
        entry(name, "bias"): bias.float(),
        entry(name, "input_scale"): torch.tensor(layer.input_scale, dtype=torch.float64),
    }


def _check_bias(network: nn.Module, name: str, traced: TracedConv) -> None:
    if traced.bias is None and network.get_submodule(name).bias is not None:
        raise BnrecalError(
            f"the convolution {name} adds its bias outside the product, which cannot be exported: "
            f"leave it in float32 with quant.skip=[{name}]"
        )


def _without_batchnorm(network: nn.Module) -> Tensors:
    """The state_dict on the CPU, without the entries of BatchNorm layers."""
    norms = {entry(name, key) for name, layer in batchnorms(network).items() for key in layer.state_dict()}
    return {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items() if key not in norms}
