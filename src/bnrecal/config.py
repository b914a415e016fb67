"""The typed configuration: plain dataclasses that Hydra composes, checked once at the edge.

`configs/config.yaml` names `Config` as its schema; `parse` turns a composed config into a `Config` whose values
are all in range. Nothing past the command line knows Hydra.
"""

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, overload

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from bnrecal.errors import BnrecalError
from bnrecal.options import (
    ACT_RANGES,
    FAMILIES,
    INTERPOLATIONS,
    POLICIES,
    RECALIBRATION_METHODS,
    ROUNDINGS,
    THREADS,
)


@dataclass
class ModelConfig:
    """Which network. `name` is one of Table 1's for `family=table1`; the data set then decides its weights."""

    name: str = MISSING
    family: str = "table1"  # table1 | torchvision | custom | timm
    checkpoint: str | None = None  # a state_dict file instead of the published weights
    factory: str | None = None  # custom: package.module:callable returning an nn.Module
    kwargs: Any = None  # custom, torchvision, timm: a mapping passed to the factory (Any: Hydra then takes {a: 1})
    # The preprocessing, where the family does not know it (custom) or to override it; mean and std in 0..1.
    mean: list[float] | None = None
    std: list[float] | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None


@dataclass
class DataConfig:
    """Which images. `root` is needed by the sets that live in a folder."""

    name: str = MISSING
    root: str | None = None
    val_images: int | None = None  # None: all of the validation split; else a seeded random choice
    download: bool = False  # imagenette only
    skip_corrupt: bool = False  # count unreadable images instead of stopping at the first


@dataclass
class QuantConfig:
    """A8W8: unsigned per-layer activations, symmetric signed per-channel weights (paper section 3)."""

    act_range: str = "mean_max"  # mean_max: mean over images of each image's maximum | max: maximum over all images
    skip: list[str] = field(default_factory=list)  # convolutions (names or globs) kept in float32 besides the first


@dataclass
class ArrayConfig:
    """The output-stationary systolic array that cycles are counted for."""

    rows: int = 16
    columns: int = 16


@dataclass
class SmtConfig:
    """NB-SMT: how many threads share a MAC and what gives way when they collide."""

    threads: int = 4
    policy: str = "A"
    sparsity: bool = True
    rounding: str = "half_even"
    saturate: bool = True
    layers: Any = None  # a mapping {name or glob: threads} over `threads`
    plan: str | None = None  # a plan file as `python -m bnrecal.commands.plan` saves it; `layers` wins over it
    array: ArrayConfig = field(default_factory=ArrayConfig)


@dataclass
class CalibrationConfig:
    """Training images that the activation ranges are gathered on."""

    images: int = 2048


@dataclass
class RecalibrationConfig:
    """Training images that the BatchNorm statistics are regathered on, and the estimator."""

    method: str = "ema"  # ema | cumulative | pooled
    images: int = 2048
    batch_size: int = 128
    momentum: float = 0.1  # ema only
    augment: bool = True  # draw the images through the training augmentation, as the authors did


@dataclass
class Config:
    """One experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    smt: SmtConfig = field(default_factory=SmtConfig)
    recal: bool = False
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    recalibration: RecalibrationConfig = field(default_factory=RecalibrationConfig)
    batch_size: int | None = None  # images a forward pass; None: 100, or all where there are fewer
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    gpus: int = 1  # evaluation is spread over this many, one process each
    workers: int | None = None  # image-loading processes; None: none for a set in memory, else one a core, 8 at most
    seed: int = 0  # chooses the calibration, recalibration and validation images
    save_checkpoint: bool = False  # also write the recalibrated float state_dict
    resume: bool = True  # take a finished result with the same content from the run folder


C = TypeVar("C", bound=Config)


def register() -> None:
    """Make `Config` known to Hydra as `schema`."""
    ConfigStore.instance().store(name="schema", node=Config)


def experiment_part(config: Config) -> Config:
    """The experiment alone, of a command's configuration that adds keys of its own."""
    return Config(**{f.name: getattr(config, f.name) for f in fields(Config)})


@overload
def parse(composed: DictConfig) -> Config: ...
@overload
def parse(composed: DictConfig, schema: type[C]) -> C: ...
def parse(composed: DictConfig, schema: type[Config] = Config) -> Config:
    """A composed Hydra config as a checked `Config`, or as the `schema` of a command that adds keys to it.

    Raises:
        BnrecalError: naming the first value that is out of range, and what would do.
    """
    config = OmegaConf.to_object(composed)
    assert isinstance(config, schema)
    check(config)
    return config


def check(config: Config) -> None:
    """Raise BnrecalError at the first value out of range; mappings that were left out become empty ones."""
    _one_of("model.family", config.model.family, FAMILIES)
    _one_of("smt.threads", config.smt.threads, THREADS)
    config.smt.layers = _mapping("smt.layers", config.smt.layers)
    config.model.kwargs = _mapping("model.kwargs", config.model.kwargs)
    for name, threads in config.smt.layers.items():
        _one_of(f"smt.layers[{name}]", threads, THREADS)
    _one_of("smt.policy", config.smt.policy, POLICIES)
    _one_of("smt.rounding", config.smt.rounding, ROUNDINGS)
    _at_least("smt.array.rows", config.smt.array.rows, 1)
    _at_least("smt.array.columns", config.smt.array.columns, 1)
    _one_of("quant.act_range", config.quant.act_range, ACT_RANGES)
    _at_least("calibration.images", config.calibration.images, 1)
    _check_recalibration(config.recalibration)
    if config.data.val_images is not None:
        _at_least("data.val_images", config.data.val_images, 1)
    if config.batch_size is not None:
        _at_least("batch_size", config.batch_size, 1)
    _at_least("gpus", config.gpus, 1)
    if config.workers is not None:
        _at_least("workers", config.workers, 0)
    _at_least("seed", config.seed, 0)
    _check_preprocessing(config.model)
    if config.device not in ("auto", "cpu", "cuda") and not config.device.removeprefix("cuda:").isdecimal():
        raise BnrecalError(f"device={config.device}: choose auto, cpu, cuda or cuda:N")


def _check_recalibration(recalibration: RecalibrationConfig) -> None:
    _one_of("recalibration.method", recalibration.method, RECALIBRATION_METHODS)
    _at_least("recalibration.images", recalibration.images, 2)
    _at_least("recalibration.batch_size", recalibration.batch_size, 2)
    if not 0 < recalibration.momentum <= 1:
        raise BnrecalError(f"recalibration.momentum={recalibration.momentum}: choose a number above 0 and up to 1")


def _check_preprocessing(model: ModelConfig) -> None:
    for key, values in (("mean", model.mean), ("std", model.std)):
        if values is not None and len(values) != 3:
            raise BnrecalError(f"model.{key}={values}: give three numbers, one a colour channel")
    if model.std is not None and min(model.std) <= 0:
        raise BnrecalError(f"model.std={model.std}: every number must be above 0")
    for key, size in (("resize", model.resize), ("crop", model.crop)):
        if size is not None:
            _at_least(f"model.{key}", size, 1)
    if model.interpolation is not None:
        _one_of("model.interpolation", model.interpolation, INTERPOLATIONS)


def _mapping(key: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BnrecalError(f"{key}={value}: give a mapping, as in {key}={{name: value}}")
    return {str(name): item for name, item in value.items()}


def _one_of(key: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise BnrecalError(f"{key}={value}: choose one of {', '.join(map(str, choices))}")


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise BnrecalError(f"{key}={value}: must be at least {least}")
