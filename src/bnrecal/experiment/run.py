"""The experiment, top to bottom, as the paper tells it: calibrate, quantize, thread, recalibrate, evaluate."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import Tensor, nn

from bnrecal.config import Config
from bnrecal.device import describe_device, with_fitting_batches
from bnrecal.evaluation import process_group
from bnrecal.evaluation.accuracy import Correctness, evaluate
from bnrecal.evaluation.multi_gpu import evaluate_on_ranks
from bnrecal.experiment import baselines
from bnrecal.experiment.identity import identity_key
from bnrecal.experiment.layer_report import IMAGES, describe_batchnorms, describe_layers
from bnrecal.experiment.provenance import resolved, versions
from bnrecal.experiment.results import Details, Result, accuracies
from bnrecal.experiment.setup import (
    A8W8,
    CONTROL,
    Prepared,
    Setup,
    Variant,
    prepare,
    prepare_variants,
    variant_identity,
)
from bnrecal.nbsmt.processor import describe_backend
from bnrecal.quantization.layer_plan import plan_speedup
from bnrecal.quantization.systolic import cycle_speedup, network_cycles
from bnrecal.recalibrate import statistics


def run(config: Config, *, measured: Callable[[Result], object] | None = None) -> Result:
    """One experiment; its baselines, with `recal` also the variant without and the control, are measured with it.

    Args:
        measured: called with the accuracies as soon as they are known, before the per-layer tables are made: nothing
            that fails after it can lose them.

    Raises:
        BnrecalError: for anything the user can mend.
    """
    variant = Variant.of(config)
    return run_variants(prepare(config), [variant], describe=[variant], measured=measured)[0]


def run_variants(
    setup: Setup,
    variants: Sequence[Variant],
    *,
    describe: Collection[Variant] = (),
    layer_images: int = IMAGES,
    measured: Callable[[Result], object] | None = None,
) -> list[Result]:
    """Several variants of one model, evaluated in one pass over the validation images.

    Args:
        describe: of these, also gather per-layer statistics on training images (`Result.layers`, `Result.batchnorm`).
        layer_images: on so many of them.
        measured: called with each result before that.

    Returns:
        A result for each variant, in their order.
    """
    started = time.perf_counter()
    known = baselines.load(setup)
    controls = [CONTROL] if any(variant.recal for variant in variants) and CONTROL not in known else []
    prepared = prepare_variants(setup, [*(v.without_recal for v in variants), *variants, *controls])
    outcomes = measure(setup, prepared, known)
    seconds = round(time.perf_counter() - started, 2)
    results = {variant: make_result(setup, prepared, outcomes, variant, seconds) for variant in variants}
    if measured is not None:
        for result in results.values():
            measured(result)
    for variant in describe:
        results[variant] = replace(results[variant], **details(setup, prepared, variant, layer_images))
    return [results[variant] for variant in variants]


def describe(config: Config) -> Details:
    """What `run` tells of the network besides its accuracies: per-layer tables and weights."""
    setup, variant = prepare(config), Variant.of(config)
    prepared = prepare_variants(setup, [variant.without_recal, variant])
    tables = details(setup, prepared, variant)
    return Details(**tables, state_dict=float_state_dict(setup.model.network, prepared[variant].network))


def details(
    setup: Setup, prepared: dict[Variant, Prepared], variant: Variant, images: int = IMAGES
) -> dict[str, pd.DataFrame]:
    """The per-layer tables of a `Result`."""
    own, without = prepared[variant], prepared[variant.without_recal]
    return {
        "layers": describe_layers(setup, without, own, images),
        "batchnorm": describe_batchnorms(setup.model.network, own.network),
    }


def measure(
    setup: Setup, prepared: dict[Variant, Prepared], known: dict[Variant | None, Correctness]
) -> dict[Variant | None, Correctness]:
    """Which validation images float32 (None) and every variant get right; those not known are measured in one pass."""
    networks: dict[Variant | None, nn.Module] = {None: setup.model.network}
    networks |= {variant: p.network for variant, p in prepared.items()}
    unknown = {key: network for key, network in networks.items() if key not in known}
    judging: dict[str, Any] = {
        "label_offset": setup.model.label_offset,
        "restricted_classes": setup.source.restricted_classes,
    }
    if unknown and (setup.config.gpus > 1 or process_group.world() > 1):
        measured = evaluate_on_ranks(
            unknown, setup.loader, setup.validation, setup.batch_size, setup.config.gpus, **judging
        )
    else:
        selection = replace(setup.validation, role=f"validation, {len(unknown)} cells")
        measured = with_fitting_batches(
            "evaluation",
            setup.batch_size,
            lambda size: evaluate(unknown, setup.loader.batches(selection, size), **judging),
        )
    baselines.save(setup, measured)
    return {**known, **measured}


def make_result(
    setup: Setup,
    prepared: dict[Variant, Prepared],
    outcomes: dict[Variant | None, Correctness],
    variant: Variant,
    seconds: float,
) -> Result:
    """Everything about one cell."""
    config, own, array = variant.apply(setup.config), prepared[variant], setup.config.smt.array
    outcome, without = outcomes[variant], outcomes[variant.without_recal]
    return Result(
        model=setup.model.name,
        data=setup.source.name,
        threads=variant.threads,
        policy=config.smt.policy,
        recal=variant.recal,
        **accuracies(outcome, without, outcomes[None], outcomes[A8W8], outcomes[CONTROL] if variant.recal else None),
        speedup=plan_speedup(own.plans),
        cycles=network_cycles(own.plans, array.rows, array.columns),
        cycle_speedup=cycle_speedup(own.plans, array.rows, array.columns),
        seed=config.seed,
        exceptions={plan.name: plan.reason for plan in own.plans if plan.reason},
        provenance=result_provenance(setup, variant),
        seconds=seconds,
        outcome=outcome,
        fp32_outcome=outcomes[None],
        state_dict=float_state_dict(setup.model.network, own.network) if config.save_checkpoint else None,
    )


def result_provenance(setup: Setup, variant: Variant) -> dict[str, Any]:
    """What produced the numbers."""
    identity = variant_identity(setup, variant)
    selections = [setup.calibration, setup.validation, *([setup.recalibration] if variant.recal else [])]
    return {
        "cell": identity_key(identity),
        "identity": identity,
        "config": resolved(variant.apply(setup.config)),
        "versions": versions(),
        "device": describe_device(setup.device),
        "backend": describe_backend(setup.device),
        "weights": setup.model.weights,
        "weights_hash": setup.model.weights_hash,
        "images": {selection.role: selection.provenance(setup.source) for selection in selections},
    }


def float_state_dict(network: nn.Module, recalibrated: nn.Module) -> dict[str, Tensor]:
    """The float network's state_dict with the recalibrated BatchNorm statistics, on the CPU."""
    state = {**network.state_dict(), **statistics(recalibrated)}
    return {name: tensor.cpu() for name, tensor in state.items()}
