"""From a float network and a plan to the quantized, threaded network."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.analysis.collisions import CollisionStatistics
from bnrecal.nbsmt.finite import check_images
from bnrecal.nbsmt.float_conv import forward
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.intercept import attach, handlers
from bnrecal.quantization.layer_plan import FLOAT, LayerPlan
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d


def quantize_layers(
    plans: Sequence[LayerPlan], spec: SmtSpec, act_range: str, permutations: Mapping[str, Tensor] = MappingProxyType({})
) -> dict[str, NBSMTConv2d]:
    """The convolutions that are quantized, each with its own thread count and otherwise as `spec` says, by name.

    Args:
        permutations: of the input channels, by the name of the convolution; int64 (C,).

    Raises:
        BnrecalError: for a policy from outside, at the first operand pair that is wrong.
    """
    spec = spec.pinned()  # all layers follow one rule, whatever its name means when they are first called
    return {
        plan.name: NBSMTConv2d(
            plan.conv,
            replace(spec, threads=plan.threads),
            signed=plan.signed,
            act_range=act_range,
            permutation=permutations.get(plan.name),
        )
        for plan in plans
        if plan.threads != FLOAT
    }


def threaded_copy(network: nn.Module, layers: dict[str, NBSMTConv2d]) -> nn.Module:
    """The network with these convolutions threaded: parameters shared with the original, buffers its own.

    `layers` may serve several copies: they hold no state that a forward pass changes, besides statistics. A
    state_dict with other parameters is refused before anything of it is loaded: the int8 weights would stay, and the
    original would change.
    """
    shared = {id(parameter): parameter for parameter in network.parameters()}
    twin: nn.Module = copy.deepcopy(network, shared)
    attach(twin, dict(layers))
    twin.register_load_state_dict_pre_hook(_refuse_other_parameters)  # type: ignore[no-untyped-call]
    return twin


def _refuse_other_parameters(network: nn.Module, state: Mapping[str, object], prefix: str, *_: Any) -> None:
    """Raise BnrecalError at a parameter of a state_dict that is not the one the quantized network was made from."""
    if not threaded_layers(network):
        return
    for name, parameter in network.named_parameters(remove_duplicate=False):
        value = state.get(prefix + name, parameter)
        if isinstance(value, Tensor) and not torch.equal(value.to(parameter), parameter):
            raise BnrecalError(
                f"{prefix}{name} of the state_dict is not what this quantized network was made from: load it into the "
                "float32 network, and quantize that again"
            )


def compare_weights(network: nn.Module) -> None:
    """Let the next forward pass compare every weight with its levels, also where PyTorch noted no change.

    A write through `weight.data` is not noted.
    """
    for layer in threaded_layers(network).values():
        layer.compare_weight()


def threaded_layers(network: nn.Module) -> dict[str, NBSMTConv2d]:
    """Return what computes each quantized convolution of a network that `threaded_copy` made, by name; else nothing."""
    return {name: handler for name, handler in handlers(network).items() if isinstance(handler, NBSMTConv2d)}


def collect_collisions(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, CollisionStatistics]:
    """Collisions, exactly, in each unsigned layer of a threaded network over some batches, by name.

    Args:
        batches: float32 (N, 3, H, W), on the network's device.
    """
    layers = threaded_layers(network)
    try:
        for layer in layers.values():
            layer.collisions, layer.collecting = None, True
        for number, images in enumerate(batches, start=1):
            check_images(images, f"batch {number}")
            forward(network, images)
        return {name: layer.collisions for name, layer in layers.items() if layer.collisions is not None}
    finally:
        for layer in layers.values():
            layer.collisions, layer.collecting = None, False
