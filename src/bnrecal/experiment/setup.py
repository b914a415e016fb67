"""What comes before a number: images, network, calibration, and the networks of the variants."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnrecal.config import Config, SmtConfig
from bnrecal.data import build_source
from bnrecal.data.base import ImageSource
from bnrecal.data.loader import ImageLoader, Selection, check_batch, choose, derive_seed
from bnrecal.device import DEFAULT_BATCH, choose_device, with_fitting_batches
from bnrecal.errors import BnrecalError
from bnrecal.experiment.identity import Identity, experiment_identity, images_and_settings
from bnrecal.files import warn_once
from bnrecal.models import load_model
from bnrecal.models.base import LoadedModel
from bnrecal.nbsmt.cuda.choose import triton_trouble
from bnrecal.nbsmt.own_policy import check_policy
from bnrecal.nbsmt.self_check import check_exact_once
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.nbsmt.widths import named
from bnrecal.quantization.calibrate import ConvInfo, calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy
from bnrecal.quantization.layer_plan import FLOAT, LayerPlan, check_skipped, matches_any, plan_threads, threads_by_layer
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d
from bnrecal.quantization.reorder import REORDER_IMAGES, can_reorder, channel_order, gather_activity, random_order
from bnrecal.recalibrate import recalibrate_, warn_of_others


@dataclass(frozen=True)
class Variant:
    """One cell: the network quantized, threaded, and recalibrated or not.

    Attributes:
        threads: of every layer that can and is not in `layers`; 1 is plain A8W8.
        recal: whether BatchNorm statistics are re-estimated.
        layers: (name or glob, threads) pairs over `threads`.
        reorder: what decides which input channels are partners, in place of `smt.reorder`; None: `smt.reorder`.
    """

    threads: int
    recal: bool
    layers: tuple[tuple[str, int], ...] = ()
    reorder: str | None = None

    @staticmethod
    def of(config: Config) -> "Variant":
        """The cell that a configuration asks for; `smt.layers` wins over the plan file."""
        layers = threads_by_layer(config.smt.plan, config.smt.layers)
        return Variant(config.smt.threads, config.recal, tuple(layers.items()))

    def apply(self, config: Config) -> Config:
        """The configuration that asks for this cell alone."""
        if self == Variant.of(config):
            return config
        how = self.reorder or config.smt.reorder
        smt = replace(config.smt, threads=self.threads, layers=dict(self.layers), plan=None, reorder=how)
        return replace(config, recal=self.recal, smt=smt)

    @property
    def without_recal(self) -> "Variant":
        """The same network before recalibration."""
        return replace(self, recal=False)

    def __str__(self) -> str:
        mixed = f", {len(self.layers)} layers set" if self.layers else ""
        order = f", reorder={self.reorder}" if self.reorder else ""
        return f"{self.threads}T {'w/' if self.recal else 'w/o'} recalibration{mixed}{order}"


Orders = Callable[[Sequence[LayerPlan]], Mapping[str, Tensor]]  # of the input channels, by the name of the convolution

A8W8 = Variant(1, False)
CONTROL = Variant(1, True)  # what recalibration gains without NB-SMT


class LayerCache:
    """Quantized convolutions by name, threads and order of channels: variants share those that run alike."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int, str], NBSMTConv2d] = {}

    def layers(
        self, plans: Sequence[LayerPlan], spec: SmtSpec, act_range: str, how: str, orders: Orders
    ) -> dict[str, NBSMTConv2d]:
        """The quantized convolutions of these plans by name; those that are missing are made.

        Args:
            how: the `smt.reorder` that `orders` follows.
        """
        keys = {plan.name: (plan.name, plan.threads, how if can_reorder(plan) else "none") for plan in plans}
        missing = [plan for plan in plans if keys[plan.name] not in self._made]
        made = quantize_layers(missing, spec, act_range, orders(missing))
        self._made |= {keys[name]: layer for name, layer in made.items()}
        return {plan.name: self._made[keys[plan.name]] for plan in plans if plan.threads != FLOAT}


@dataclass(frozen=True)
class Setup:
    """Everything that the variants of one model have in common.

    Attributes:
        identity: what the numbers of `config` depend on, by content.
        convs: what calibration saw of every convolution, in calling order.
    """

    config: Config
    source: ImageSource
    model: LoadedModel
    device: torch.device
    calibration: Selection
    validation: Selection
    batch_size: int
    identity: Identity = field(repr=False)
    convs: tuple[ConvInfo, ...] = ()
    layer_cache: LayerCache = field(default_factory=LayerCache, repr=False, compare=False)

    @property
    def recalibration(self) -> Selection:
        """The images that BatchNorm statistics are re-estimated on; BnrecalError if there are not so many."""
        return recalibration_images(self.config, self.source)

    @property
    def loader(self) -> ImageLoader:
        return ImageLoader(self.source, self.model.preprocessing, self.device, self.config.workers)


@dataclass(frozen=True)
class Prepared:
    """A variant's network and how each of its convolutions runs."""

    variant: Variant
    network: nn.Module
    plans: list[LayerPlan]
    layers: dict[str, NBSMTConv2d]


def prepare(config: Config) -> Setup:
    """Load images and network, calibrate.

    Raises:
        BnrecalError: for anything the user can mend.
    """
    setup = load(config)
    warn_of_others(setup.model.network)
    return replace(setup, convs=tuple(conv_infos(setup)))


def load(config: Config) -> Setup:
    """The images, the float network and the device."""
    check_policy(machine(config.smt).policy)
    device = choose_device(config.device, tf32=config.tf32, engine_trouble=triton_trouble)
    check_exact_once(device)
    source, model, selections = inputs(config)
    calibration, validation = selections[:2]
    identity = experiment_identity(config, source, model, *selections)
    model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = config.batch_size or min(DEFAULT_BATCH[device.type], len(validation.indices))
    return Setup(config, source, model, device, calibration, validation, batch_size, identity)


def identify(config: Config) -> Identity:
    """The identity that a setup of this configuration would have, on whatever device.

    Raises:
        BnrecalError: for anything the user can mend.
    """
    source, model, selections = inputs(config)
    return experiment_identity(config, source, model, *selections)


def inputs(config: Config) -> tuple[ImageSource, LoadedModel, list[Selection]]:
    """The images and the float network; calibration, validation and (with `recal`) recalibration images."""
    source = build_source(config.data)
    model = load_model(config.model, source)
    # validation images do not follow the seed: seeds are to differ in what they calibrate on, not in the exam
    validation = choose(source, "val", "validation", config.data.val_images, 0)
    if config.batch_size is not None:
        check_batch("batch_size", config.batch_size, validation)
    calibration = choose(source, "train", "calibration", config.calibration.images, config.seed)
    recalibration = [recalibration_images(config, source)] if config.recal else []
    return source, model, [calibration, validation, *recalibration]


def recalibration_images(config: Config, source: ImageSource) -> Selection:
    """A seeded choice of training images for `recalibration`."""
    how = config.recalibration
    chosen = choose(source, "train", "recalibration", how.images, config.seed)
    check_batch("recalibration.batch_size", how.batch_size, chosen)
    rest = how.images % how.batch_size
    if how.method == "pooled" or 2 * rest >= how.batch_size or rest == 0:
        return chosen
    warn_once(
        f"recalibration.images={how.images}: the last {rest} would be a batch of their own with the weight of "
        f"{how.batch_size}, and are left out"
    )
    return replace(chosen, indices=chosen.indices[:-rest])


def variant_identity(setup: Setup, variant: Variant) -> Identity:
    """What the numbers of one variant depend on."""
    config = variant.apply(setup.config)
    recalibration = [setup.recalibration] if variant.recal else []
    own = images_and_settings(config, setup.source, setup.calibration, setup.validation, *recalibration)
    return {**setup.identity, **own}


def conv_infos(setup: Setup) -> list[ConvInfo]:
    """Activation ranges, on training images through the float32 network."""
    skip = setup.config.quant.skip

    def on_batches(size: int) -> list[ConvInfo]:
        images = setup.loader.images(setup.calibration, size)
        return calibrate(setup.model.network, images, keep_float=lambda name: matches_any(name, skip))

    convs = with_fitting_batches("calibration", setup.batch_size, on_batches)
    check_skipped("quant.skip", skip, setup.model.network, convs)
    return convs


def prepare_variants(setup: Setup, variants: Sequence[Variant]) -> dict[Variant, Prepared]:
    """The networks of A8W8 and all variants; those that differ in recalibration alone share their layers."""
    prepared: dict[Variant, Prepared] = {}
    for variant in [A8W8, *variants]:
        if variant not in prepared:
            sibling = prepared.get(variant.without_recal)
            plans, layers = (sibling.plans, sibling.layers) if sibling else planned_layers(setup, variant)
            network = threaded_copy(setup.model.network, layers)
            if variant.recal:
                recalibrate_network(setup, network, f"recalibration, {variant.threads}T")
            prepared[variant] = Prepared(variant, network, plans, layers)
    return prepared


def planned_layers(setup: Setup, variant: Variant) -> tuple[list[LayerPlan], dict[str, NBSMTConv2d]]:
    """The thread plan of a variant and its quantized convolutions."""
    smt, quant = setup.config.smt, setup.config.quant
    plans = plan_threads(setup.convs, variant.threads, dict(variant.layers), quant.skip)
    how = variant.reorder or smt.reorder
    orders = partial(channel_orders, setup, how)
    return plans, setup.layer_cache.layers(plans, machine(smt), quant.act_range, how, orders)


def machine(smt: SmtConfig) -> SmtSpec:
    """What the settings emulate; each layer runs the threads of its plan."""
    return SmtSpec(smt.threads, named(smt.policy, smt.bits), smt.sparsity, smt.rounding, smt.saturate)


def channel_orders(setup: Setup, how: str, plans: Sequence[LayerPlan]) -> dict[str, Tensor]:
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


def recalibrate_network(setup: Setup, network: nn.Module, progress: str = "recalibration") -> None:
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
