"""The typed configuration: plain dataclasses that Hydra composes, checked once at the edge.

`configs/config.yaml` names `Config` as its schema; `parse` turns a composed config into a `Config` whose values
are all in range. Nothing below the command line knows Hydra. What a key means is said once, in its `setting`.
"""

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnrecal.checks import mapping, one_of, sane_values
from bnrecal.errors import BnrecalError, first_line
from bnrecal.options import (
    ACT_RANGES,
    BITS,
    FAMILIES,
    INTERPOLATIONS,
    POLICIES,
    RECALIBRATION_METHODS,
    REORDERS,
    ROUNDINGS,
    THREADS,
)

T = TypeVar("T")


def setting(default: T, help: str, *, least: int | None = None, choices: tuple[object, ...] = ()) -> T:
    """A field of a configuration with what it means; `bnrecal --help` and `bnrecal COMMAND --help` print it.

    Args:
        default: a list is copied for each configuration.
        help: what it means, its unit or range, and what may be chosen.
        least, choices: the smallest number, the values to choose from; `sane_values` checks them where they are given.
    """
    metadata = {"help": help, "least": least, "choices": choices}
    if isinstance(default, list):
        own: T = field(default_factory=lambda: list(default), metadata=metadata)  # type: ignore[assignment]
        return own
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    """The network; model=NAME chooses one of the files in configs/model."""

    name: str = setting("", "one of Table 1's, or a name that the family knows")
    family: str = setting(
        "table1",
        "table1 (the data set decides the weights) | torchvision | custom | timm",
        choices=FAMILIES,
    )
    checkpoint: str | None = setting(None, "a file with a state_dict, instead of the published weights")
    checkpoint_key: str | None = setting(None, "where in that file the weights are, if there are several: model_ema")
    factory: str | None = setting(None, "custom: package.module:callable that returns an nn.Module")
    # Any, because Hydra takes {a: 1} for nothing narrower
    kwargs: Any = setting(None, "custom, torchvision, timm: arguments of the factory, as in {classes: 10}")
    mean: list[float] | None = setting(None, "preprocessing: mean of red, green, blue in 0..1, subtracted")
    std: list[float] | None = setting(None, "preprocessing: what red, green, blue are divided by, in 0..1")
    resize: int | None = setting(None, "preprocessing: the shorter side after resizing, in pixels", least=1)
    crop: int | None = setting(None, "preprocessing: side of the central square, in pixels", least=1)
    interpolation: str | None = setting(
        None,
        f"preprocessing: {' | '.join(INTERPOLATIONS)}",
        choices=INTERPOLATIONS,
    )


@dataclass
class DataConfig:
    """The images; data=NAME chooses one of the files in configs/data."""

    name: str = setting("", "glyphs | imagenet | imagenette | imagefolder | huggingface")
    root: str | None = setting(
        None, "the folder that holds the images (huggingface: or a name on the hub); glyphs need none"
    )
    val_images: int | None = setting(None, "validation images, a seeded random choice; null: all", least=1)
    download: bool = setting(False, "imagenette only: fetch it into root, 1.5 GB")
    crop_cache: str | None = setting(
        None,
        "a folder that keeps the decoded crops (150 KB an image at 224 pixels), read in place of the files next time",
    )
    skip_corrupt: bool = setting(False, "leave unreadable images out and count them, instead of stopping")
    allow_chance: bool = setting(False, "go on though float32 is hardly better than chance, as untrained networks are")


@dataclass
class QuantConfig:
    """8-bit quantization (A8W8): unsigned activations per layer, symmetric signed weights per output channel."""

    act_range: str = setting(
        "mean_max",
        "mean_max (mean over images of each image's maximum) | max (over all images)",
        choices=ACT_RANGES,
    )
    skip: list[str] = setting([], "convolutions (names or globs) that stay float32 besides the first")


@dataclass
class ArrayConfig:
    """The output-stationary systolic array that cycles are counted for."""

    rows: int = setting(16, "rows of processing elements", least=1)
    columns: int = setting(16, "columns of processing elements", least=1)


@dataclass
class SmtConfig:
    """NB-SMT: how many threads share a multiplier, and what is reduced to 4 bits when they collide."""

    threads: int = setting(4, "threads of every convolution that can run several: 1 | 2 | 4", choices=THREADS)
    policy: str = setting("A", f"what gives way when two threads collide: {' | '.join(POLICIES)} | module:POLICY")
    sparsity: bool = setting(True, "a thread with a zero operand leaves the multiplier to the others")
    bits: int = setting(4, "of a reduced operand: 3 | 4 | 5", choices=BITS)
    rounding: str = setting("half_even", f"of reduced operands: {' | '.join(ROUNDINGS)}", choices=ROUNDINGS)
    saturate: bool = setting(True, "keep reduced operands within 240 and 112, what 4 bits can hold")
    layers: Any = setting(None, "threads of single layers, by name or glob: {layer4.*: 2}")
    plan: str | None = setting(None, "threads per layer from a file that bnrecal plan wrote; smt.layers wins over it")
    reorder: str = setting(
        "none",
        "partners among input channels: none | activity (collide seldom) | bits (lose few bits) | random:N (by chance)",
    )
    array: ArrayConfig = field(default_factory=ArrayConfig)


@dataclass
class CalibrationConfig:
    """Training images that the ranges of the activations are measured on."""

    images: int = setting(2048, "how many, a seeded random choice", least=1)


@dataclass
class RecalibrationConfig:
    """The re-estimation of BatchNorm statistics on training images (with recal=true)."""

    method: str = setting(
        "ema",
        "ema (moving average) | cumulative (mean from reset statistics) | pooled",
        choices=RECALIBRATION_METHODS,
    )
    images: int = setting(2048, "how many, a seeded random choice", least=2)
    batch_size: int = setting(128, "images per step", least=2)
    momentum: float = setting(0.1, "ema only: the weight of a new batch, above 0 and up to 1")
    augment: bool = setting(True, "draw them through the training augmentation, as the authors did")


@dataclass
class Config:
    """One experiment.

    Examples:
        >>> import bnrecal
        >>> config = bnrecal.Config(smt=bnrecal.SmtConfig(threads=2, layers={"layer4.*": 1}), recal=True)
        >>> config.smt.threads, config.smt.policy, config.calibration.images
        (2, 'A', 2048)
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    smt: SmtConfig = field(default_factory=SmtConfig)
    recal: bool = setting(False, "re-estimate the BatchNorm statistics of the threaded network")
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    recalibration: RecalibrationConfig = field(default_factory=RecalibrationConfig)
    batch_size: int | None = setting(
        None,
        "images per forward pass; null: 100, on a GPU 512 or what its memory holds",
        least=1,
    )
    device: str = setting("auto", "auto (the GPU if there is one) | cpu | cuda | cuda:N")
    tf32: bool = setting(False, "let a GPU round the operands of float32 layers to 10 bits")
    gpus: int = setting(1, "spread the evaluation over so many GPUs, one process each", least=1)
    workers: int | None = setting(
        None,
        "image-loading processes; null: 0 for glyphs, else one per core",
        least=0,
    )
    seed: int = setting(0, "chooses the calibration and recalibration images", least=0)
    save_checkpoint: bool = setting(False, "also write the float state_dict with the re-estimated statistics")
    resume: bool = setting(True, "take a finished result with the same content from the output folder")


def experiment_part(config: Config) -> Config:
    """The experiment alone, of a command's configuration that adds keys of its own."""
    return Config(**{f.name: getattr(config, f.name) for f in fields(Config)})


def parse(composed: DictConfig) -> Config:
    """A composed Hydra config as a checked `Config`.

    Raises:
        BnrecalError: naming the first value that is out of range, and what would do.
    """
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    check(config)
    return config


def complete(config: Config) -> Config:
    """A configuration made in Python, checked and completed like one that Hydra composed; the original stays as it is.

    Without a name the model is what configs/config.yaml says, or called "custom" for its family; so are the data.

    Raises:
        BnrecalError: naming the first value that is out of range or of another type, and what would do.
    """
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), asdict(config))
    except OmegaConfBaseException as error:
        raise BnrecalError(f"{error.full_key or 'config'}: {first_line(error)}") from error
    assert isinstance(typed, DictConfig)
    names = {"table1": "resnet18", "custom": "custom"}
    if not typed.model.name:
        typed.model.name = names.get(typed.model.family, "")
    if not typed.data.name:
        typed.data.name = "glyphs"
    return parse(typed)


def check(config: Config) -> None:
    """Raise BnrecalError at the first value out of range; mappings that were left out become empty ones."""
    if not config.model.name:
        raise BnrecalError(f"model.name is missing: give a name that family={config.model.family} knows")
    if not config.data.name:
        raise BnrecalError("data.name is missing: choose one of glyphs, imagenet, imagenette, imagefolder, huggingface")
    sane_values(config)
    config.smt.layers = mapping("smt.layers", config.smt.layers)
    config.model.kwargs = mapping("model.kwargs", config.model.kwargs)
    for name, threads in config.smt.layers.items():
        one_of(f"smt.layers[{name}]", threads, THREADS)
    if ":" not in config.smt.policy:  # else a custom policy, which is loaded later
        one_of("smt.policy", config.smt.policy, (*POLICIES, "module:POLICY"))
    own = (config.smt.policy not in POLICIES, config.smt.rounding != "half_even", not config.smt.saturate)
    if config.smt.bits != 4 and any(own):
        raise BnrecalError(
            f"smt.bits={config.smt.bits} goes with smt.policy={'|'.join(POLICIES)}, smt.rounding=half_even and "
            "smt.saturate=true: leave the others out, or write the rule as a custom policy"
        )
    if not re.fullmatch("random:[0-9]{1,9}", config.smt.reorder):
        one_of("smt.reorder", config.smt.reorder, (*REORDERS, "random:N with a whole number N"))
    momentum = config.recalibration.momentum
    if not 0 < momentum <= 1:
        raise BnrecalError(f"recalibration.momentum={momentum}: choose a number above 0 and up to 1")
    _check_preprocessing(config.model)
    check_device(config.device, config.gpus)


def check_device(device: str, gpus: int = 1) -> None:
    """Raise BnrecalError unless `device` names one, and one that goes with so many GPUs."""
    if re.fullmatch("[0-9]+", device):
        raise BnrecalError(f"device={device}: write device=cuda:{device} for that GPU")
    if not re.fullmatch("auto|cpu|cuda(:[0-9]+)?", device):
        raise BnrecalError(f"device={device}: choose auto, cpu, cuda or cuda:N")
    if gpus > 1 and ":" in device:
        raise BnrecalError(
            f"gpus={gpus} takes cuda:0 to cuda:{gpus - 1}, device={device} a single one: choose gpus=1 or device=cuda"
        )


def _check_preprocessing(model: ModelConfig) -> None:
    for key, values in (("mean", model.mean), ("std", model.std)):
        if values is not None and len(values) != 3:
            raise BnrecalError(f"model.{key}={values}: give three numbers, one per colour channel")
    if model.std is not None and min(model.std) <= 0:
        raise BnrecalError(f"model.std={model.std}: every number must be above 0")
