"""The experiment, top to bottom, as the paper tells it: calibrate, quantize, thread, recalibrate, evaluate."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import statistics
from bnrecal.config import Config
from bnrecal.device import describe_device, device_kind, with_fitting_batches
from bnrecal.evaluation import process_group
from bnrecal.evaluation.accuracy import Correctness, evaluate
from bnrecal.evaluation.multi_gpu import evaluate_on_ranks
from bnrecal.experiment import baselines
from bnrecal.experiment.chance import refuse_chance
from bnrecal.experiment.identity import content_key
from bnrecal.experiment.layer_report import IMAGES, describe_batchnorms, describe_layers
from bnrecal.experiment.networks import ThreadedNetwork, prepare_variants
from bnrecal.experiment.provenance import versions
from bnrecal.experiment.records import ProvenanceRecord
from bnrecal.experiment.results import Details, Result, accuracies
from bnrecal.experiment.setup import Experiment, load, machine, prepare, variant_identity, variant_images
from bnrecal.experiment.variant import A8W8, CONTROL, Variant
from bnrecal.nbsmt.analysis.machine import describe_engine
from bnrecal.quantization.layer_plan import plan_speedup
from bnrecal.quantization.systolic import cycle_speedup, network_cycles


def run(config: Config, *, measured: Callable[[Result], object] | None = None) -> Result:
    """One experiment; its baselines, with `recal` also the variant without and the control, are measured with it.

    Args:
        measured: called with the accuracies as soon as they are known, before the per-layer tables are made: nothing
            that fails after it can lose them.
    """
    return run_loaded(load(config), measured=measured)


def run_loaded(experiment: Experiment, *, measured: Callable[[Result], object] | None = None) -> Result:
    """`run`, of an experiment that is loaded already."""
    variant = Variant.of(experiment.config)
    return run_variants(prepare(experiment), [variant], describe=[variant], measured=measured)[0]


def run_variants(
    experiment: Experiment,
    variants: Sequence[Variant],
    *,
    describe: Collection[Variant] = (),
    layer_images: int = IMAGES,
    measured: Callable[[Result], object] | None = None,
) -> list[Result]:
    """Several variants of one model, evaluated in one pass over the validation images.

    Args:
        describe: of these, also gather per-layer collisions on training images (`Result.layers`, `Result.batchnorm`).
        layer_images: on so many of them.
        measured: called with each result before that.

    Returns:
        A result for each variant, in their order.
    """
    started = time.perf_counter()
    known = baselines.load(experiment)
    refuse_chance(experiment, known.get(None))
    controls = [CONTROL] if any(variant.recal for variant in variants) and CONTROL not in known else []
    prepared = prepare_variants(experiment, [*(v.without_recal for v in variants), *variants, *controls])
    outcomes = measure(experiment, prepared, known)
    seconds = round(time.perf_counter() - started, 2)
    results = {variant: make_result(experiment, prepared, outcomes, variant, seconds) for variant in variants}
    if measured is not None:
        for result in results.values():
            measured(result)
    for variant in describe:
        results[variant] = replace(results[variant], **details(experiment, prepared, variant, layer_images))
    return [results[variant] for variant in variants]


def describe(experiment: Experiment) -> Details:
    """Per-layer tables and weights of a loaded experiment: all that `run` returns besides accuracies."""
    variant = Variant.of(experiment.config)
    experiment = prepare(experiment)
    prepared = prepare_variants(experiment, [variant.without_recal, variant])
    tables = details(experiment, prepared, variant)
    return Details(**tables, state_dict=float_state_dict(experiment.model.network, prepared[variant].network))


def details(
    experiment: Experiment, prepared: dict[Variant, ThreadedNetwork], variant: Variant, images: int = IMAGES
) -> dict[str, pd.DataFrame]:
    """The per-layer tables of a `Result`."""
    own, without = prepared[variant], prepared[variant.without_recal]
    return {
        "layers": describe_layers(experiment, without, own, images),
        "batchnorm": describe_batchnorms(experiment.model.network, own.network),
    }


def measure(
    experiment: Experiment, prepared: dict[Variant, ThreadedNetwork], known: dict[Variant | None, Correctness]
) -> dict[Variant | None, Correctness]:
    """Return which validation images float32 (None) and each variant get right, in one pass over the unknown."""
    networks: dict[Variant | None, nn.Module] = {None: experiment.model.network}
    networks |= {variant: p.network for variant, p in prepared.items()}
    unknown = {key: network for key, network in networks.items() if key not in known}
    judging: dict[str, Any] = {
        "label_offset": experiment.model.label_offset,
        "restricted_classes": experiment.source.restricted_classes,
    }
    if unknown and (experiment.config.gpus > 1 or process_group.world() > 1):
        measured = evaluate_on_ranks(
            unknown, experiment.loader, experiment.validation, experiment.batch_size, experiment.config.gpus, **judging
        )
    else:
        selection = replace(experiment.validation, label=f"validation, {len(unknown)} cells")
        measured = with_fitting_batches(
            "evaluation",
            experiment.batch_size,
            lambda size: evaluate(unknown, experiment.loader.batches(selection, size), **judging),
        )
    baselines.save(experiment, measured)
    return {**known, **measured}


def make_result(
    experiment: Experiment,
    prepared: dict[Variant, ThreadedNetwork],
    outcomes: dict[Variant | None, Correctness],
    variant: Variant,
    seconds: float,
) -> Result:
    """Everything about one cell."""
    config = variant.apply(experiment.config)
    own = prepared[variant]
    array = experiment.config.smt.array
    outcome, without = outcomes[variant], outcomes[variant.without_recal]
    return Result(
        model=experiment.model.name,
        data=experiment.source.name,
        threads=variant.threads,
        policy=config.smt.policy,
        recal=variant.recal,
        **accuracies(outcome, without, outcomes[None], outcomes[A8W8], outcomes[CONTROL] if variant.recal else None),
        speedup=plan_speedup(own.plans),
        cycles=network_cycles(own.plans, array.rows, array.columns),
        cycle_speedup=cycle_speedup(own.plans, array.rows, array.columns),
        seed=config.seed,
        exceptions={plan.name: plan.reason for plan in own.plans if plan.exception},
        layer_exceptions={
            plan.name: {"kind": plan.exception.value, "threads": plan.threads} for plan in own.plans if plan.exception
        },
        provenance=result_provenance(experiment, variant),
        seconds=seconds,
        outcome=outcome,
        fp32_outcome=outcomes[None],
        state_dict=float_state_dict(experiment.model.network, own.network) if config.save_checkpoint else None,
    )


def result_provenance(experiment: Experiment, variant: Variant) -> ProvenanceRecord:
    """Return what produced the numbers."""
    identity = variant_identity(experiment, variant)
    config = variant.apply(experiment.config)
    return {
        "content": content_key(identity),
        "identity": identity,
        "config": asdict(config),
        "versions": versions(),
        "device": describe_device(experiment.device),
        "device_kind": device_kind(experiment.device),
        "engine": describe_engine(experiment.device, machine(config.smt)),
        "fusion": asdict(experiment.fusion),
        "weights": experiment.model.weights,
        "weights_hash": experiment.model.weights_hash,
        "images": variant_images(experiment, variant),
    }


def float_state_dict(network: nn.Module, recalibrated: nn.Module) -> dict[str, Tensor]:
    """The float network's state_dict with the recalibrated BatchNorm statistics, on the CPU."""
    state = {**network.state_dict(), **statistics(recalibrated)}
    return {name: tensor.cpu() for name, tensor in state.items()}
