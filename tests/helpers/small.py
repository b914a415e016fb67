"""Experiments that take seconds."""

from bnrecal.commands.cli.compose import compose_config
from bnrecal.config import Config, parse

TINY = [  # on the CPU wherever they run; enough for 100 training and 20 validation images
    "model=custom",
    "device=cpu",
    "model.factory=helpers.nets:glyph_net",
    "data.allow_chance=true",
    "calibration.images=32",
    "recalibration.images=32",
    "recalibration.batch_size=16",
]
SMALL = [
    "model=custom",
    "device=cpu",
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
