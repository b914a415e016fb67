"""The networks of Table 1 at reduced width for 32x32 images, with the checkpoints shipped for `data=glyphs`.

Depth, blocks, pooling and padding are those of the full networks, and so are the number and order of the
convolutions: most are torchvision's own classes with fewer channels. One rule fits all to small images: the
first convolution (which stays float32 in every experiment) runs at stride 1.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.googlenet import BasicConv2d, GoogLeNet, Inception, InceptionAux
from torchvision.models.resnet import BasicBlock, Bottleneck

from bnrecal.config import ModelConfig
from bnrecal.data.glyphs.draw import CLASSES
from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING
from bnrecal.errors import BnrecalError
from bnrecal.models.base import Recipe, own_checkpoint
from bnrecal.models.mlperf import MlperfMobileNetV1, MlperfResNet50
from bnrecal.models.narrow import NarrowResNet

CHECKPOINT_FOLDER = Path(__file__).parent / "checkpoints"
INDEX = "index.json"  # name -> Checkpoint, beside the files


@dataclass(frozen=True)
class Checkpoint:
    """A file in CHECKPOINT_FOLDER, its SHA-256, and which of ARCHITECTURES it holds the weights of."""

    architecture: str
    file: str
    sha256: str


def _googlenet(num_classes: int) -> nn.Module:
    """A quarter of the channels; the auxiliary classifiers are for training alone and left out."""

    def conv(inputs: int, outputs: int, **options: int) -> Any:
        return BasicConv2d(inputs if inputs == 3 else _quarter(inputs), _quarter(outputs), **options)

    def inception(*channels: int) -> Any:
        return Inception(*map(_quarter, channels))

    blocks = [conv, inception, InceptionAux]
    network: nn.Module = GoogLeNet(num_classes=num_classes, aux_logits=False, init_weights=False, blocks=blocks)
    network.fc = nn.Linear(_quarter(1024), num_classes)
    return network


def _quarter(channels: int) -> int:
    """A quarter, rounded up to a multiple of 4 (every channel count of GoogLeNet but one divides by 16)."""
    return -(-channels // 16) * 4


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(NarrowResNet, BasicBlock, (2, 2, 2, 2), width=8),
    "resnet50": partial(NarrowResNet, Bottleneck, (3, 4, 6, 3), width=8),
    "googlenet": _googlenet,
    "densenet121": partial(DenseNet, growth_rate=4, num_init_features=8),
    "resnet50_mlperf": partial(MlperfResNet50, width=8),
    "mobilenet_v1": partial(MlperfMobileNetV1, multiplier=0.25),
}


def read_index(folder: Path) -> dict[str, Checkpoint]:
    """Return the checkpoints of the folder by the name given to `model=`; empty without an index."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    return {name: Checkpoint(**entry) for name, entry in json.loads(path.read_text()).items()}


CHECKPOINTS = read_index(CHECKPOINT_FOLDER)
"""What is shipped. Further weights for one of ARCHITECTURES (pruned, say) are one more entry of the index."""

MINI_NAMES = tuple(dict.fromkeys((*ARCHITECTURES, *CHECKPOINTS)))


def build_mini(name: str) -> nn.Module:
    """An untrained mini network, in training mode, initialized from the global torch seed."""
    _check_name(name)
    checkpoint = CHECKPOINTS.get(name)
    architecture = checkpoint.architecture if checkpoint else name
    network = ARCHITECTURES[architecture](num_classes=CLASSES)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.stride = (1, 1)
    return network


def _check_name(name: str) -> None:
    if name not in MINI_NAMES:
        raise BnrecalError(f"no model {name!r} for data=glyphs: choose from {', '.join(MINI_NAMES)}")


def mini_recipe(config: ModelConfig) -> Recipe:
    """The mini network of this name with the weights shipped in this package, or with `model.checkpoint`."""
    name = config.name
    path = own_checkpoint(config)
    if path is not None:
        return Recipe(lambda _: build_mini(name), str(config.checkpoint), GLYPH_PREPROCESSING, path)
    _check_name(name)
    checkpoint = CHECKPOINTS.get(name)
    if checkpoint is None:
        raise BnrecalError(f"no checkpoint is shipped for {name!r}: scripts/train_minis.py makes it")
    return Recipe(
        lambda _: build_mini(name),
        weights=f"bnrecal/models/checkpoints/{checkpoint.file}",
        checkpoint=CHECKPOINT_FOLDER / checkpoint.file,
        sha256=checkpoint.sha256,
        preprocessing=GLYPH_PREPROCESSING,
    )
