"""The threaded networks of an experiment's variants."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import recalibrate_
from bnrecal.display import progress
from bnrecal.errors import BnrecalError
from bnrecal.experiment.setup import Experiment, machine
from bnrecal.experiment.variant import A8W8, Variant
from bnrecal.quantization.convert import threaded_copy
from bnrecal.quantization.layer_plan import LayerPlan, plan_threads
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d
from bnrecal.quantization.reorder import (
    REORDER_IMAGES,
    can_reorder,
    channel_permutation,
    gather_activity,
    random_permutation,
)
from bnrecal.seeds import derive_seed


@dataclass(frozen=True)
class ThreadedNetwork:
    """A variant's network and how each of its convolutions runs."""

    variant: Variant
    network: nn.Module
    plans: list[LayerPlan]
    layers: dict[str, NBSMTConv2d]


def prepare_variants(experiment: Experiment, variants: Sequence[Variant]) -> dict[Variant, ThreadedNetwork]:
    """The networks of A8W8 and all variants; those that differ in recalibration alone share their layers."""
    prepared: dict[Variant, ThreadedNetwork] = {}
    for variant in [A8W8, *variants]:
        if variant not in prepared:
            sibling = prepared.get(variant.without_recal)
            plans, layers = (sibling.plans, sibling.layers) if sibling else planned_layers(experiment, variant)
            network = threaded_copy(experiment.model.network, layers)
            if variant.recal:
                recalibrate_network(experiment, network, f"recalibration, {variant.threads}T")
            prepared[variant] = ThreadedNetwork(variant, network, plans, layers)
    return prepared


def planned_layers(experiment: Experiment, variant: Variant) -> tuple[list[LayerPlan], dict[str, NBSMTConv2d]]:
    """The thread plan of a variant and its quantized convolutions."""
    smt, quant = experiment.config.smt, experiment.config.quant
    plans = plan_threads(experiment.convs, variant.threads, dict(variant.layers), quant.skip)
    how = variant.reorder or smt.reorder
    permutations = partial(channel_permutations, experiment, how)
    return plans, experiment.layer_cache.layers(plans, machine(smt), quant.act_range, how, permutations)


def channel_permutations(experiment: Experiment, how: str, plans: Sequence[LayerPlan]) -> dict[str, Tensor]:
    """Permutations of the input channels, found on calibration images or drawn from a number; by convolution.

    Args:
        how: a value of `smt.reorder`.
    """
    chosen = [] if how == "none" else [plan for plan in plans if can_reorder(plan)]
    if not chosen or how.startswith("random"):
        return {p.name: random_permutation(p.conv.weight.shape[1], derive_seed(0, how, p.name)) for p in chosen}
    few = replace(experiment.calibration, indices=experiment.calibration.indices[:REORDER_IMAGES], label="reordering")
    images = experiment.loader.images(few, min(experiment.batch_size, REORDER_IMAGES))
    act_range = experiment.config.quant.act_range
    activity = gather_activity(experiment.model.network, [plan.conv for plan in chosen], images, act_range)
    bar = progress(chosen, "reordering", "layer")
    return {plan.name: channel_permutation(activity[plan.name], plan.threads, how) for plan in bar}


def recalibrate_network(experiment: Experiment, network: nn.Module, progress: str = "recalibration") -> None:
    """Re-estimate the network's BatchNorm statistics on training images, behind a progress bar of that name."""
    how = experiment.config.recalibration
    seed = derive_seed(experiment.config.seed, "recalibration")
    selection = replace(experiment.recalibration, label=progress)
    images = experiment.loader.images(selection, how.batch_size, augment=how.augment, seed=seed)
    try:
        recalibrate_(network, images, method=how.method, momentum=how.momentum)
    except torch.cuda.OutOfMemoryError as error:  # a smaller batch would be another estimate
        message = f"recalibration.batch_size={how.batch_size} does not fit the GPU's memory: choose a smaller one"
        raise BnrecalError(message) from error
