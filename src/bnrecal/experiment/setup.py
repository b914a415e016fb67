"""What comes before a number: images, network, calibration, and the networks of the variants."""

from dataclasses import dataclass, field, replace

import torch

from bnrecal.batchnorm.recalibrate import warn_of_others
from bnrecal.config import Config, SmtConfig
from bnrecal.data import build_source
from bnrecal.data.base import ImageSource
from bnrecal.data.loader import ImageLoader, check_batch
from bnrecal.data.selection import Selection, choose
from bnrecal.device import DEFAULT_BATCH, choose_device, with_fitting_batches
from bnrecal.experiment.identity import Identity, experiment_identity, images_and_settings
from bnrecal.experiment.layer_cache import LayerCache
from bnrecal.experiment.variant import Variant
from bnrecal.files import warn_once
from bnrecal.models import load_model
from bnrecal.models.base import LoadedModel
from bnrecal.nbsmt.analysis.self_check import check_exact_once
from bnrecal.nbsmt.engines.gpu.choose import triton_trouble
from bnrecal.nbsmt.policies.bit_widths import named
from bnrecal.nbsmt.policies.custom import check_policy
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import ConvInfo, calibrate
from bnrecal.quantization.layer_plan import check_skipped, matches_any


@dataclass(frozen=True)
class Experiment:
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


def prepare(config: Config) -> Experiment:
    """Load images and network, calibrate.

    Raises:
        BnrecalError: for anything the user can mend.
    """
    setup = load(config)
    warn_of_others(setup.model.network)
    return replace(setup, convs=tuple(conv_infos(setup)))


def load(config: Config) -> Experiment:
    """The images, the float network and the device."""
    check_policy(machine(config.smt).policy)
    device = choose_device(config.device, tf32=config.tf32, engine_trouble=triton_trouble)
    check_exact_once(device)
    source, model, selections = inputs(config)
    calibration, validation = selections[:2]
    identity = experiment_identity(config, source, model, *selections)
    model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = config.batch_size or min(DEFAULT_BATCH[device.type], len(validation.indices))
    return Experiment(config, source, model, device, calibration, validation, batch_size, identity)


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


def variant_identity(setup: Experiment, variant: Variant) -> Identity:
    """What the numbers of one variant depend on."""
    config = variant.apply(setup.config)
    recalibration = [setup.recalibration] if variant.recal else []
    own = images_and_settings(config, setup.source, setup.calibration, setup.validation, *recalibration)
    return {**setup.identity, **own}


def conv_infos(setup: Experiment) -> list[ConvInfo]:
    """Activation ranges, on training images through the float32 network."""
    skip = setup.config.quant.skip

    def on_batches(size: int) -> list[ConvInfo]:
        images = setup.loader.images(setup.calibration, size)
        return calibrate(setup.model.network, images, keep_float=lambda name: matches_any(name, skip))

    convs = with_fitting_batches("calibration", setup.batch_size, on_batches)
    check_skipped("quant.skip", skip, setup.model.network, convs)
    return convs


def machine(smt: SmtConfig) -> SmtSpec:
    """What the settings emulate; each layer runs the threads of its plan."""
    return SmtSpec(smt.threads, named(smt.policy, smt.bits), smt.sparsity, smt.rounding, smt.saturate)
