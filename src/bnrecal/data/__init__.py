"""Data sets: the embedded glyphs, ImageNet, Imagenette, any image folder, Hugging Face's."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from bnrecal.config import DataConfig
from bnrecal.data.base import ImageSource
from bnrecal.errors import BnrecalError

# data=NAME: module:function of this package, imported when asked for. The function takes the DataConfig.
_SOURCES = {
    "glyphs": "glyphs.source:from_config",
    "imagenet": "files.imagenet:from_config",
    "imagenette": "files.imagenette:from_config",
    "imagefolder": "files.imagefolder:from_config",
    "huggingface": "huggingface:from_config",
}


def build_source(config: DataConfig) -> ImageSource:
    """The data set that `data.name` asks for. Its content follows no seed: seeds choose images to calibrate on.

    Raises:
        BnrecalError: if the name is unknown, or the set's folder is missing or not laid out as the set's.
    """
    if config.name not in _SOURCES:
        raise BnrecalError(f"data={config.name}: choose one of {', '.join(_SOURCES)}")
    module, _, function = _SOURCES[config.name].partition(":")
    make = cast(Callable[[DataConfig], ImageSource], getattr(import_module(f"bnrecal.data.{module}"), function))
    return make(config)
