"""Images as uint8 crops, a quarter of the size of the network inputs that they are normalised to."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.utils.data import Dataset

from bnrecal.data.preprocessing import CPU, Normalization, Preprocessing


class CropDataset(Dataset[tuple[Tensor, int]], ABC):
    """Images as (float32 (3, H, W) network input, label), or as uint8 crops that are normalised by somebody else."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def crop(self, i: int) -> tuple[Tensor, int]:
        """Return image i as uint8 (H, W, 3), and its label."""

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels, label = self.crop(i)
        return Normalization(self.preprocessing, CPU)(pixels), label


class Crops(Dataset[tuple[Tensor, int]]):
    """The same images as uint8 (H, W, 3) crops."""

    def __init__(self, dataset: CropDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.dataset.crop(i)
