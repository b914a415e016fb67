"""From a float network and a plan to the quantized, threaded network."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.intercept import attach
from bnrecal.quantization.layer_plan import FLOAT, LayerPlan
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d


def quantize_layers(plans: Sequence[LayerPlan], spec: SmtSpec, act_range: str) -> dict[str, NBSMTConv2d]:
    """The convolutions that are quantized, each with its own thread count and otherwise as `spec` says, by name."""
    return {
        plan.name: NBSMTConv2d(plan.conv, replace(spec, threads=plan.threads), signed=plan.signed, act_range=act_range)
        for plan in plans
        if plan.threads != FLOAT
    }


def threaded_copy(network: nn.Module, layers: dict[str, NBSMTConv2d]) -> nn.Module:
    """The network with these convolutions threaded: parameters shared with the original, buffers its own.

    `layers` may serve several copies: they hold no state that a forward pass changes, besides statistics.
    """
    shared = {id(parameter): parameter for parameter in network.parameters()}
    twin: nn.Module = copy.deepcopy(network, shared)
    attach(twin, dict(layers))
    return twin
