"""A data set without files, for tests of models."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from bnrecal.data.base import ImageSource, Split
from bnrecal.data.preprocessing import Preprocessing


class Blank(ImageSource):
    """Grey images under any name and number of classes."""

    def __init__(self, name: str = "imagenet", num_classes: int = 1000) -> None:
        self.name = name
        self.num_classes = num_classes
        self.imagenet_classes = name in ("imagenet", "imagenette")

    def size(self, split: Split) -> int:  # noqa: ARG002
        return 4

    def dataset(
        self,
        split: Split,  # noqa: ARG002
        indices: Sequence[int],
        preprocessing: Preprocessing,  # noqa: ARG002
        *,
        augment: bool = False,  # noqa: ARG002
    ) -> Dataset[tuple[Tensor, int]]:
        data: Dataset[tuple[Tensor, int]] = TensorDataset(torch.zeros(len(indices), 3, 32, 32))  # type: ignore[assignment]
        return data

    def fingerprint(self, split: Split, indices: Sequence[int]) -> str:
        return f"{split}{list(indices)}"
