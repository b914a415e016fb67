"""The steps before a number: images, network, calibration."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from bnrecal.batchnorm.recalibrate import eval_mode, warn_of_others
from bnrecal.config import Config, SmtConfig
from bnrecal.data import build_source
from bnrecal.data.base import ImageSource
from bnrecal.data.crop_cache import CropCache
from bnrecal.data.loader import ImageLoader, check_batch
from bnrecal.data.selection import ImagesRecord, Selection, choose
from bnrecal.device import DEFAULT_BATCH, choose_device, with_fitting_batches
from bnrecal.experiment.identity import Identity, experiment_identity, settings_identity
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
from bnrecal.quantization.fused import Fusion, describe_fusion
from bnrecal.quantization.layer_plan import check_skipped, matches_any

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Experiment:
    """Everything that the variants of one model have in common: made by `load`, made ready to measure by `prepare`.

    Attributes:
        identity: what the numbers of `config` depend on, by content.
        device: where the network is.
        convs: what calibration saw of every convolution, in calling order; empty before `prepare`.
    """

    config: Config
    source: ImageSource
    model: LoadedModel
    calibration: Selection
    validation: Selection
    identity: Identity = field(repr=False)
    device: torch.device = CPU
    convs: tuple[ConvInfo, ...] = ()
    layer_cache: LayerCache = field(default_factory=LayerCache, repr=False, compare=False)

    @property
    def batch_size(self) -> int:
        """Images in a forward pass: as configured, else as many as suit the device."""
        return self.config.batch_size or min(DEFAULT_BATCH[self.device.type], len(self.validation.indices))

    @cached_property
    def recalibration(self) -> Selection:
        """The images that BatchNorm statistics are re-estimated on; BnrecalError if there are not so many."""
        return recalibration_images(self.config, self.source)

    @cached_property
    def image_provenance(self) -> dict[str, ImagesRecord]:
        """Return how to find the calibration and validation images again, by their role."""
        selections = (self.calibration, self.validation)
        return {selection.role: selection.provenance(self.source) for selection in selections}

    @cached_property
    def recalibration_provenance(self) -> ImagesRecord:
        """Return how to find the recalibration images again."""
        return self.recalibration.provenance(self.source)

    @cached_property
    def recalibration_version(self) -> str:
        """The identity of the recalibration images, also where `config` itself does not recalibrate."""
        chosen = self.recalibration
        known = self.identity["images"].get(chosen.role)
        return self.source.version(chosen.split, chosen.indices) if known is None else str(known)

    @cached_property
    def fusion(self) -> Fusion:
        """Return which layers of the float32 network are fused in evaluation; so they are in its threaded copies."""
        with eval_mode(self.model.network):
            return describe_fusion(self.model.network, self.device)

    @cached_property
    def loader(self) -> ImageLoader:
        preprocessing = self.model.preprocessing
        return ImageLoader(self.source, preprocessing, self.device, self.config.workers, crop_cache=self._crop_cache())

    def _crop_cache(self) -> CropCache | None:
        folder = self.config.data.crop_cache
        if folder is None:
            return None
        selections = [self.calibration, self.validation]
        if self.config.recal:
            selections.append(self.recalibration)
        versions = self.identity["images"]
        known = {(one.split, one.indices): versions[one.role] for one in selections}
        return CropCache(Path(folder).expanduser(), known)


def load(config: Config) -> Experiment:
    """Load images and float32 network, on the CPU, and identify by content all that the numbers depend on."""
    check_policy(machine(config.smt).policy)
    source = build_source(config.data)
    model = load_model(config.model, source)
    # validation images do not follow the seed: seeds are to differ in what they calibrate on, not in the exam
    validation = choose(source, "val", "validation", config.data.val_images, 0)
    if config.batch_size is not None:
        check_batch("batch_size", config.batch_size, validation)
    calibration = choose(source, "train", "calibration", config.calibration.images, config.seed)
    selections = [calibration, validation]
    if config.recal:
        selections.append(recalibration_images(config, source))
    identity = experiment_identity(config, source, model, selections)
    return Experiment(config, source, model, calibration, validation, identity)


def identify(config: Config) -> Identity:
    """Identity of the experiment that a configuration asks for, on whatever device."""
    return load(config).identity


def prepare(experiment: Experiment) -> Experiment:
    """Bring a loaded experiment to its device and calibrate it."""
    experiment = on_device(experiment)
    warn_of_others(experiment.model.network)
    return replace(experiment, convs=tuple(conv_infos(experiment)))


def on_device(experiment: Experiment) -> Experiment:
    """Choose the device that the configuration asks for, check it, and move the network there."""
    config = experiment.config
    device = choose_device(config.device, tf32=config.tf32, engine_trouble=triton_trouble)
    check_exact_once(device)
    experiment.model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(experiment, device=device)


def recalibration_images(config: Config, source: ImageSource) -> Selection:
    """A seeded choice of training images for `recalibration`."""
    how = config.recalibration
    chosen = choose(source, "train", "recalibration", how.images, config.seed)
    check_batch("recalibration.batch_size", how.batch_size, chosen)
    rest = how.images % how.batch_size
    if how.method == "pooled" or 2 * rest >= how.batch_size or rest == 0:
        return chosen
    warn_once(
        f"recalibration.images={how.images}: the last {rest} do not fill a batch and are not used "
        f"(as a small batch they would count as much as {how.batch_size} images)"
    )
    return replace(chosen, indices=chosen.indices[:-rest])


def variant_identity(experiment: Experiment, variant: Variant) -> Identity:
    """Identity of one variant's numbers; the images, which may be on a slow disk, are not looked at again."""
    images = dict(experiment.identity["images"])
    if variant.recal:
        images[experiment.recalibration.role] = experiment.recalibration_version
    else:
        images.pop("recalibration", None)
    settings = settings_identity(variant.apply(experiment.config))
    return {**experiment.identity, "images": images, "settings": settings}


def variant_images(experiment: Experiment, variant: Variant) -> dict[str, ImagesRecord]:
    """Return how to find the images of one variant again, by their role."""
    images = dict(experiment.image_provenance)
    if variant.recal:
        images[experiment.recalibration.role] = experiment.recalibration_provenance
    return images


def conv_infos(experiment: Experiment) -> list[ConvInfo]:
    """Activation ranges, on training images through the float32 network."""
    skip = experiment.config.quant.skip

    def on_batches(size: int) -> list[ConvInfo]:
        images = experiment.loader.images(experiment.calibration, size)
        return calibrate(experiment.model.network, images, keep_float=lambda name: matches_any(name, skip))

    convs = with_fitting_batches("calibration", experiment.batch_size, on_batches)
    check_skipped("quant.skip", skip, experiment.model.network, convs)
    return convs


def machine(smt: SmtConfig) -> SmtSpec:
    """The NB-SMT machine that the settings emulate; each layer runs the threads of its plan."""
    return SmtSpec(smt.threads, named(smt.policy, smt.bits), smt.sparsity, smt.rounding, smt.saturate)
