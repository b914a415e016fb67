"""The experiment, top to bottom, as the paper tells it: calibrate, quantize, thread, recalibrate, evaluate."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnrecal import baselines
from bnrecal.config import Config
from bnrecal.data import build_source
from bnrecal.data.base import ImageSource
from bnrecal.describe import describe_batchnorms, describe_layers
from bnrecal.device import choose_device, describe_device
from bnrecal.distributed import evaluate_on_ranks
from bnrecal.evaluate import Outcome, evaluate
from bnrecal.layer import ThreadedConv
from bnrecal.models import load_model
from bnrecal.models.base import LoadedModel
from bnrecal.observe import Observation, observe
from bnrecal.provenance import cell_key, resolved, versions
from bnrecal.recalibrate import recalibrate_, statistics
from bnrecal.results import Result, accuracies
from bnrecal.selection import Loading, Selection, check_batch, choose, derive_seed
from bnrecal.smt import SmtSpec
from bnrecal.swap import thread_layers, threaded_copy
from bnrecal.systolic import network_cycles
from bnrecal.threads import FLOAT, LayerPlan, load_plan, matches_any, plan_threads, speedup


@dataclass(frozen=True)
class Variant:
    """One cell: the network quantized, threaded, and recalibrated or not.

    Attributes:
        threads: of every layer that can and is not in `layers`; 1 is plain A8W8.
        recal: whether BatchNorm statistics are regathered.
        layers: (name or glob, threads) pairs over `threads`.
    """

    threads: int
    recal: bool
    layers: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def of(config: Config) -> "Variant":
        """The cell that a configuration asks for; `smt.layers` wins over the plan file."""
        planned = load_plan(Path(config.smt.plan)) if config.smt.plan else {}
        return Variant(config.smt.threads, config.recal, tuple({**planned, **config.smt.layers}.items()))

    def apply(self, config: Config) -> Config:
        """The configuration that asks for this cell alone."""
        if self == Variant.of(config):
            return config
        return replace(
            config, recal=self.recal, smt=replace(config.smt, threads=self.threads, layers=dict(self.layers), plan=None)
        )

    @property
    def without_recal(self) -> "Variant":
        """The same network before recalibration."""
        return replace(self, recal=False)

    def __str__(self) -> str:
        mixed = f", {len(self.layers)} layers set" if self.layers else ""
        return f"{self.threads}T {'w/' if self.recal else 'w/o'} recalibration{mixed}"


A8W8 = Variant(1, False)


@dataclass
class Setup:
    """Everything that the variants of one model have in common."""

    config: Config
    source: ImageSource
    model: LoadedModel
    device: torch.device
    calibration: Selection
    recalibration: Selection
    validation: Selection
    batch_size: int
    observations: list[Observation] = field(default_factory=list)
    quantized: dict[tuple[str, int], ThreadedConv] = field(default_factory=dict, repr=False)  # by name and threads

    @property
    def loading(self) -> Loading:
        return Loading(self.source, self.model.preprocessing, self.device, self.config.workers)


@dataclass
class Prepared:
    """A variant's network and how each of its convolutions runs."""

    variant: Variant
    network: nn.Module
    plans: list[LayerPlan]
    layers: dict[str, ThreadedConv]


def run(config: Config) -> Result:
    """One experiment; its baselines, and with `recal` also the variant without, are measured on the same images.

    Raises:
        BnrecalError: for anything the user can mend.
    """
    return run_variants(prepare(config), [Variant.of(config)], describe=True)[0]


def prepare(config: Config) -> Setup:
    """What comes before any variant: load images and network, calibrate."""
    setup = load(config)
    setup.observations = calibrate(setup)
    return setup


def run_variants(setup: Setup, variants: Sequence[Variant], *, describe: bool = False) -> list[Result]:
    """Several variants of one model, evaluated in one pass over the validation images.

    Args:
        describe: also gather per-layer statistics on training images (`Result.layers`, `Result.batchnorm`).

    Returns:
        A result for each variant, in their order.
    """
    started = time.perf_counter()
    prepared = prepare_variants(setup, [*(v.without_recal for v in variants), *variants])
    outcomes = measure(setup, prepared)
    seconds = round(time.perf_counter() - started, 2)
    return [make_result(setup, prepared, outcomes, variant, seconds, describe) for variant in variants]


def load(config: Config) -> Setup:
    """The images, the float network and the device."""
    device = choose_device(config.device)
    source = build_source(config.data)
    model = load_model(config.model, source)
    calibration = choose(source, "train", "calibration", config.calibration.images, config.seed)
    recalibration = choose(source, "train", "recalibration", config.recalibration.images, config.seed)
    # validation images do not follow the seed: seeds are to differ in what they calibrate on, not in the exam
    validation = choose(source, "val", "validation", config.data.val_images, 0)
    if config.batch_size is not None:
        check_batch("batch_size", config.batch_size, validation)
    check_batch("recalibration.batch_size", config.recalibration.batch_size, recalibration)
    model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = config.batch_size or min(100, len(validation.indices))
    return Setup(config, source, model, device, calibration, recalibration, validation, batch_size)


def calibrate(setup: Setup) -> list[Observation]:
    """Activation ranges, on training images through the float32 network."""
    skip = setup.config.quant.skip
    images = setup.loading.images(setup.calibration, setup.batch_size)
    return observe(setup.model.network, images, keep_float=lambda name: matches_any(name, skip))


def prepare_variants(setup: Setup, variants: Sequence[Variant]) -> dict[Variant, Prepared]:
    """The networks of A8W8 and all variants; those that differ in recalibration alone share their layers."""
    prepared: dict[Variant, Prepared] = {}
    for variant in [A8W8, *variants]:
        if variant not in prepared:
            sibling = prepared.get(variant.without_recal)
            plans, layers = (sibling.plans, sibling.layers) if sibling else quantize(setup, variant)
            network = threaded_copy(setup.model.network, layers)
            if variant.recal:
                recalibrate(setup, network)
            prepared[variant] = Prepared(variant, network, plans, layers)
    return prepared


def quantize(setup: Setup, variant: Variant) -> tuple[list[LayerPlan], dict[str, ThreadedConv]]:
    """The thread plan of a variant and its quantized convolutions; variants share those that run alike."""
    smt, quant = setup.config.smt, setup.config.quant
    plans = plan_threads(setup.observations, variant.threads, dict(variant.layers), quant.skip)
    spec = SmtSpec(variant.threads, smt.policy, smt.sparsity, smt.rounding, smt.saturate)
    pairs = zip(setup.observations, plans, strict=True)
    new = [(o, plan) for o, plan in pairs if (plan.name, plan.threads) not in setup.quantized]
    made = thread_layers([o for o, _ in new], [plan for _, plan in new], spec, quant.act_range)
    setup.quantized |= {(name, layer.spec.threads): layer for name, layer in made.items()}
    return plans, {p.name: setup.quantized[p.name, p.threads] for p in plans if p.threads != FLOAT}


def recalibrate(setup: Setup, network: nn.Module) -> None:
    """Regather the network's BatchNorm statistics on training images."""
    how = setup.config.recalibration
    seed = derive_seed(setup.config.seed, "recalibration")
    images = setup.loading.images(setup.recalibration, how.batch_size, augment=how.augment, seed=seed)
    recalibrate_(network, images, method=how.method, momentum=how.momentum)


def measure(setup: Setup, prepared: dict[Variant, Prepared]) -> dict[Variant | None, Outcome]:
    """Validation outcomes of float32 (None) and every variant in one pass; known baselines are not run again."""
    networks: dict[Variant | None, nn.Module] = {None: setup.model.network}
    networks |= {variant: p.network for variant, p in prepared.items()}
    kept = baselines.paths(setup, A8W8)
    known = {key: outcome for key, path in kept.items() if (outcome := baselines.load(path))}
    unknown = {key: network for key, network in networks.items() if key not in known}
    judging: dict[str, Any] = {
        "label_offset": setup.model.label_offset,
        "restricted_classes": setup.source.restricted_classes,
    }
    if setup.config.gpus > 1 and unknown:
        measured = evaluate_on_ranks(
            unknown, setup.loading, setup.validation, setup.batch_size, setup.config.gpus, **judging
        )
    else:
        measured = evaluate(unknown, setup.loading.batches(setup.validation, setup.batch_size), **judging)
    for key in kept.keys() & measured.keys():
        baselines.save(kept[key], measured[key])
    return {**known, **measured}


def make_result(
    setup: Setup,
    prepared: dict[Variant, Prepared],
    outcomes: dict[Variant | None, Outcome],
    variant: Variant,
    seconds: float,
    describe: bool,
) -> Result:
    """Everything about one cell."""
    config, own, observations = variant.apply(setup.config), prepared[variant], setup.observations
    outcome, array = outcomes[variant], config.smt.array
    without = outcomes[variant.without_recal]
    return Result(
        model=setup.model.name,
        data=setup.source.name,
        threads=variant.threads,
        policy=config.smt.policy,
        recal=variant.recal,
        **accuracies(outcome, without, outcomes[None], outcomes[A8W8], variant.recal),
        speedup=speedup(observations, own.plans),
        cycles=network_cycles(observations, own.plans, array.rows, array.columns),
        seed=config.seed,
        exceptions={plan.name: plan.reason for plan in own.plans if plan.reason},
        provenance=provenance(setup, config),
        seconds=seconds,
        outcome=outcome,
        fp32_outcome=outcomes[None],
        layers=describe_layers(setup, prepared[variant.without_recal], own) if describe else None,
        batchnorm=describe_batchnorms(setup.model.network, own.network) if describe else None,
        state_dict=float_state_dict(setup.model.network, own.network) if config.save_checkpoint else None,
    )


def provenance(setup: Setup, config: Config) -> dict[str, Any]:
    """What produced the numbers."""
    selections = (setup.calibration, setup.recalibration, setup.validation)
    return {
        "cell": cell_key(config),
        "config": resolved(config),
        "versions": versions(),
        "device": describe_device(setup.device),
        "weights": setup.model.weights,
        "weights_hash": setup.model.weights_hash,
        "images": {selection.role: selection.provenance(setup.source) for selection in selections},
    }


def float_state_dict(network: nn.Module, recalibrated: nn.Module) -> dict[str, Tensor]:
    """The float network's state_dict with the recalibrated BatchNorm statistics, on the CPU."""
    state = {**network.state_dict(), **statistics(recalibrated)}
    return {name: tensor.cpu() for name, tensor in state.items()}
