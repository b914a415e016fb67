"""From a float network and a plan to the quantized, threaded network."""

import copy
from collections.abc import Sequence

from torch import nn

from bnrecal.convs import attach
from bnrecal.layer import ThreadedConv
from bnrecal.observe import Observation
from bnrecal.smt import SmtSpec
from bnrecal.threads import FLOAT, LayerPlan


def thread_layers(
    observations: Sequence[Observation], plans: Sequence[LayerPlan], spec: SmtSpec, act_range: str
) -> dict[str, ThreadedConv]:
    """The convolutions that the plan quantizes, each with its own thread count and otherwise as `spec` says."""
    return {
        plan.name: ThreadedConv(
            observed,
            SmtSpec(plan.threads, spec.policy, spec.sparsity, spec.rounding, spec.saturate),
            signed=plan.signed,
            act_range=act_range,
        )
        for observed, plan in zip(observations, plans, strict=True)
        if plan.threads != FLOAT
    }


def threaded_copy(network: nn.Module, layers: dict[str, ThreadedConv]) -> nn.Module:
    """The network with these convolutions threaded: parameters shared with the original, buffers its own.

    `layers` may serve several copies: they hold no state that a forward pass changes, besides statistics.
    """
    shared = {id(parameter): parameter for parameter in network.parameters()}
    twin: nn.Module = copy.deepcopy(network, shared)
    attach(twin, dict(layers))
    return twin
