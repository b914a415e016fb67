"""Networks of timm, an optional extra, with their published weights or your own checkpoint."""

import math
from typing import Any

from torch import nn

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError, first_line
from bnrecal.models.base import Recipe, own_checkpoint
from bnrecal.models.weights import State


def timm_recipe(config: ModelConfig, data: ImageSource) -> Recipe:
    """A network of timm by its name there, for example resnet18.tv_in1k.

    Raises:
        BnrecalError: if timm is not installed or has no such network. Building raises it if timm cannot make the
            network, or has no weights of it.
    """
    try:
        import timm
    except ImportError as error:
        raise BnrecalError("model=timm needs the package timm: pip install 'bnrecal[timm]'") from error
    if not timm.is_model(config.name):
        raise BnrecalError(f"model.name={config.name}: no network of timm {timm.__version__}")
    if config.checkpoint is None and not data.imagenet_classes:
        raise BnrecalError(f"data={data.name} has classes of its own: give model.checkpoint=PATH")
    kwargs = {"pretrained": config.checkpoint is None, "num_classes": data.num_classes}
    kwargs |= config.kwargs or {}

    def build(_: State) -> nn.Module:
        try:
            network: nn.Module = timm.create_model(config.name, **kwargs)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise BnrecalError(
                f"timm cannot make {config.name} ({first_line(error)}): without a network, give model.checkpoint=PATH"
            ) from error
        return network

    return Recipe(
        build,
        weights=config.checkpoint or f"timm {config.name}",
        checkpoint=own_checkpoint(config),
        preprocessing=lambda network: _preprocessing(timm.data.resolve_model_data_config(network)),
    )


def _preprocessing(found: dict[str, Any]) -> Preprocessing:
    """timm's evaluation transform; its size may be given for training and testing alike."""
    crop = int(found["input_size"][-1])
    return Preprocessing(
        resize=math.floor(crop / found["crop_pct"]),
        crop=crop,
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation="bicubic" if found["interpolation"] == "bicubic" else "bilinear",
    )
