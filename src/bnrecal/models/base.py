"""The recipe that a family of networks returns, and the loaded network that an experiment gets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.models.weights import State, install

# Models with pruned weights and their networks: here, where commands find it without importing torchvision.
PRUNED = {"resnet18_p40": "resnet18"}


@dataclass(frozen=True)
class LoadedModel:
    """A trained float32 network in eval mode on the CPU.

    Attributes:
        name: as given by `model=`.
        network: images (N, 3, H, W) to logits (N, classes).
        preprocessing: how it wants its images.
        label_offset: logit index of label 0 (1 for the MLPerf models, whose class 0 is background).
        weights: where the weights came from, for people (a file, a torchvision enum).
        weights_hash: SHA-256 over names, dtypes, shapes and bytes of the state_dict, for provenance.
    """

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    label_offset: int
    weights: str
    weights_hash: str


@dataclass(frozen=True)
class Recipe:
    """A family's answer to `model.name`: how to make the network. `bnrecal.models.load_model` follows it.

    Attributes:
        build: makes the network, in any mode, of any dtype. It gets the tensors of `checkpoint`, which may decide
            about its layers; none without a checkpoint.
        weights: where the weights come from, for people.
        preprocessing: how the network wants its images where `model.mean` and the like say nothing; a function where
            only the network knows.
        checkpoint: file of the weights; None where `build` brings them.
        sha256: of that file, where it is known.
        install: puts the tensors of `checkpoint` into the network; its last argument names them in messages.
    """

    build: Callable[[State], nn.Module]
    weights: str
    preprocessing: Preprocessing | Callable[[nn.Module], Preprocessing]
    checkpoint: Path | None = None
    sha256: str | None = None
    install: Callable[[nn.Module, State, str], None] = install


Family = Callable[[ModelConfig, ImageSource], Recipe]


def own_checkpoint(config: ModelConfig) -> Path | None:
    """The file that `model.checkpoint` names, if it names one."""
    return None if config.checkpoint is None else Path(config.checkpoint).expanduser()
