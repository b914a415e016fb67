"""What an experiment asks of a model."""

from dataclasses import dataclass

from torch import nn

from bnrecal.data.preprocessing import Preprocessing


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
