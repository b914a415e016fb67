"""Experiments that take seconds."""

from bnrecal.commands.common import compose_config
from bnrecal.config import Config, parse

TINY = [  # enough for 100 training and 20 validation images
    "model=custom",
    "model.factory=helpers.nets:glyph_net",
    "data.allow_chance=true",
    "calibration.images=32",
    "recalibration.images=32",
    "recalibration.batch_size=16",
]
SMALL = [
    "model=custom",
    "model.factory=helpers.nets:glyph_net",
    "data.allow_chance=true",
    "data.val_images=60",
    "calibration.images=40",
    "recalibration.images=48",
    "recalibration.batch_size=16",
]


def config(*overrides: str) -> Config:
    """A checked configuration: `SMALL` with overrides."""
    return parse(compose_config("config", [*SMALL, *overrides]))
