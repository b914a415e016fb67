"""The networks of the paper's Table 1: at full size for ImageNet's classes, reduced for the embedded set."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.models.base import PRUNED, Recipe, own_checkpoint
from bnrecal.models.mlperf import MlperfMobileNetV1, MlperfResNet50
from bnrecal.models.published import Published, fetch
from bnrecal.models.torchvision_models import torchvision_recipe

TORCHVISION = ("resnet18", "resnet50", "googlenet", "densenet121")
_MLPERF_URL = "https://github.com/gilshm/mlperf-pytorch/raw/master/checkpoints"


@dataclass(frozen=True)
class Mlperf:
    """An MLPerf network: its architecture, the published file, and how the reference prepares images."""

    build: Callable[[], nn.Module]
    published: Published
    preprocessing: Preprocessing


MLPERF = {
    "resnet50_mlperf": Mlperf(
        MlperfResNet50,
        Published(
            f"{_MLPERF_URL}/resnet50_mlperf.pth",
            "resnet50_mlperf.pth",
            "fa2bb0f915fcfb3c140b67f879d14ac5e72d906b",
            "git-blob",
        ),
        # 0..255 minus the mean colour, no division
        Preprocessing(
            mean=(123.68 / 255, 116.78 / 255, 103.94 / 255),
            std=(1 / 255, 1 / 255, 1 / 255),
            interpolation="area",
        ),
    ),
    "mobilenet_v1": Mlperf(
        MlperfMobileNetV1,
        Published(
            f"{_MLPERF_URL}/mobilenet-v1_mlperf.pth",
            "mobilenet-v1_mlperf.pth",
            "d9bbf8c60c8c5e8edb58b49dbb176dbc1f5f613e",
            "git-blob",
        ),
        # -1..1
        Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="opencv_bilinear"),
    ),
}


def paper_recipe(config: ModelConfig, data: ImageSource) -> Recipe:
    """A row of Table 1 with the weights that go with the data set."""
    if data.name == "glyphs":
        from bnrecal.models.mini import mini_recipe

        return mini_recipe(config)
    if config.name in TORCHVISION:
        return torchvision_recipe(config, data)
    if config.name in PRUNED:
        if config.checkpoint is None:
            raise BnrecalError(f"nobody publishes {config.name} for ImageNet: give model.checkpoint=PATH")
        return torchvision_recipe(replace(config, name=PRUNED[config.name]), data)
    if config.name in MLPERF:
        return _mlperf_recipe(config, data)
    known = ", ".join((*TORCHVISION, *MLPERF))
    raise BnrecalError(f"model={config.name} is not made for data={data.name}: choose {known}, torchvision or custom")


def _mlperf_recipe(config: ModelConfig, data: ImageSource) -> Recipe:
    if not data.imagenet_classes:
        raise BnrecalError(f"model={config.name} has ImageNet's classes, data={data.name} others: use model=custom")
    mlperf = MLPERF[config.name]
    return Recipe(
        lambda _: mlperf.build(),
        weights=config.checkpoint or f"MLPerf {mlperf.published.file}",
        checkpoint=own_checkpoint(config) or fetch(mlperf.published),
        preprocessing=mlperf.preprocessing,
    )
