"""The MobileNet-v1 that comes with the package, which gets four of five images right, on a few drawn images."""

from functools import cache, lru_cache

import torch
from torch import Tensor

from bnrecal.commands.cli.compose import compose_config
from bnrecal.config import Config, parse
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.setup import Experiment, load, prepare
from bnrecal.experiment.variant import Variant

MODEL = "mobilenet_v1"
FEW = [
    f"model={MODEL}",
    "device=cpu",
    "data.val_images=64",
    "calibration.images=64",
    "recalibration.images=64",
    "recalibration.batch_size=32",
]


def config(*overrides: str) -> Config:
    return parse(compose_config("config", [*FEW, *overrides]))


@lru_cache(maxsize=4)  # each holds a mapping of all training images
def experiment(*overrides: str) -> Experiment:
    return prepare(load(config(*overrides)))


@cache
@torch.no_grad()
def logits(*overrides: str) -> Tensor:
    """float32 (64, 96): the answers of the cell that the settings ask for, to the validation images."""
    own = experiment(*overrides)
    variant = Variant.of(own.config)
    network = prepare_variants(own, [variant])[variant].network
    return torch.cat([network(images) for images in own.loader.images(own.validation, 32)])


@cache
@torch.no_grad()
def float_logits() -> Tensor:
    """float32 (64, 96): the answers of the float network."""
    own = experiment()
    return torch.cat([own.model.network(images) for images in own.loader.images(own.validation, 32)])


@cache
def labels() -> Tensor:
    """int64 (64,)."""
    own = experiment()
    return torch.cat([labels for _, labels in own.loader.batches(own.validation, 32)])
