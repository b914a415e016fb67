"""The threaded networks of an experiment's variants."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnrecal.batchnorm.recalibrate import recalibrate_
from bnrecal.errors import BnrecalError
from bnrecal.experiment.setup import Experiment, machine
from bnrecal.experiment.variant import A8W8, Variant
from bnrecal.quantization.convert import threaded_copy
from bnrecal.quantization.layer_plan import LayerPlan, plan_threads
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d
from bnrecal.quantization.reorder import REORDER_IMAGES, can_reorder, channel_order, gather_activity, random_order
from bnrecal.seeds import derive_seed


@dataclass(frozen=True)
class ThreadedNetwork:
    """A variant's network and how each of its convolutions runs."""

    variant: Variant
    network: nn.Module
    plans: list[LayerPlan]
    layers: dict[str, NBSMTConv2d]


def prepare_variants(setup: Experiment, variants: Sequence[Variant]) -> dict[Variant, ThreadedNetwork]:
    """The networks of A8W8 and all variants; those that differ in recalibration alone share their layers."""
    prepared: dict[Variant, ThreadedNetwork] = {}
    for variant in [A8W8, *variants]:
        if variant not in prepared:
            sibling = prepared.get(variant.without_recal)
            plans, layers = (sibling.plans, sibling.layers) if sibling else planned_layers(setup, variant)
            network = threaded_copy(setup.model.network, layers)
            if variant.recal:
                recalibrate_network(setup, network, f"recalibration, {variant.threads}T")
            prepared[variant] = ThreadedNetwork(variant, network, plans, layers)
    return prepared


def planned_layers(setup: Experiment, variant: Variant) -> tuple[list[LayerPlan], dict[str, NBSMTConv2d]]:
    """The thread plan of a variant and its quantized convolutions."""
    smt, quant = setup.config.smt, setup.config.quant
    plans = plan_threads(setup.convs, variant.threads, dict(variant.layers), quant.skip)
    how = variant.reorder or smt.reorder
    orders = partial(channel_orders, setup, how)
    return plans, setup.layer_cache.layers(plans, machine(smt), quant.act_range, how, orders)


def channel_orders(setup: Experiment, how: str, plans: Sequence[LayerPlan]) -> dict[str, Tensor]:
    """Orders of the input channels, found on calibration images or drawn from a number; by convolution.

    Args:
        how: a value of `smt.reorder`.
    """
    chosen = [] if how == "none" else [plan for plan in plans if can_reorder(plan)]
    if not chosen or how.startswith("random"):
        return {p.name: random_order(p.conv.weight.shape[1], derive_seed(0, how, p.name)) for p in chosen}
    few = replace(setup.calibration, indices=setup.calibration.indices[:REORDER_IMAGES], role="reordering")
    images = setup.loader.images(few, min(setup.batch_size, REORDER_IMAGES))
    act_range = setup.config.quant.act_range
    activity = gather_activity(setup.model.network, [plan.conv for plan in chosen], images, act_range)
    bar = tqdm(chosen, desc="reordering", unit="layer", leave=False, delay=1, disable=None)
    return {plan.name: channel_order(activity[plan.name], plan.threads, how) for plan in bar}


def recalibrate_network(setup: Experiment, network: nn.Module, progress: str = "recalibration") -> None:
    """Re-estimate the network's BatchNorm statistics on training images, behind a progress bar of that name."""
    how = setup.config.recalibration
    seed = derive_seed(setup.config.seed, "recalibration")
    selection = replace(setup.recalibration, role=progress)
    images = setup.loader.images(selection, how.batch_size, augment=how.augment, seed=seed)
    try:
        recalibrate_(network, images, method=how.method, momentum=how.momentum)
    except torch.cuda.OutOfMemoryError as error:  # a smaller batch would be another estimate
        message = f"recalibration.batch_size={how.batch_size} does not fit the GPU's memory: choose a smaller one"
        raise BnrecalError(message) from error
