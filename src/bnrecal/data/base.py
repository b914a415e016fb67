"""The interface between experiments and data sets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.utils.data import Dataset

from bnrecal.config import DataConfig
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError

Split = Literal["train", "val"]


class ImageSource(ABC):
    """A training split to calibrate and recalibrate on, and a validation split to measure on.

    Attributes:
        name: as given by `data=`.
        num_classes: how many classes labels run over, 0..num_classes-1 (1000 for every ImageNet-labelled set).
        restricted_classes: labels that occur at all, where a second top-1 among only these makes sense
            (Imagenette's ten); None elsewhere.
        imagenet_classes: whether labels are ImageNet's 1,000 classes in the order of published networks.
        in_memory: whether items cost so little that loading processes would only slow them down.
    """

    name: str
    num_classes: int
    restricted_classes: Sequence[int] | None = None
    imagenet_classes: bool = False
    in_memory: bool = False

    @abstractmethod
    def size(self, split: Split) -> int:
        """Return the number of images of a split."""

    @abstractmethod
    def dataset(
        self, split: Split, indices: Sequence[int], preprocessing: Preprocessing, *, augment: bool = False
    ) -> Dataset[tuple[Tensor, int]]:
        """The chosen images, in the order of `indices`, as (float32 (3, H, W) network input, label).

        Args:
            indices: each within 0..size(split)-1.
            augment: draw through the training augmentation (random resized crop and flip, or the set's own);
                the draw depends on the global torch seed alone.

        A set that skips unreadable images gives a black one with the label -1 instead.

        Implementations may add `__getitems__`, which a `DataLoader` prefers over single items. A set whose images are
        decoded gives a `bnrecal.data.crops.CropDataset`.
        """

    @abstractmethod
    def fingerprint(self, split: Split, indices: Sequence[int]) -> str:
        """A short hash of which images these are (names or seeds, not pixels), for the provenance of a result."""

    def version(self, split: Split, indices: Sequence[int]) -> str:
        """A short hash that changes with the images themselves on this machine, so that nothing stale is reused.

        Sets that live in files override this with names, sizes and modification times.
        """
        return self.fingerprint(split, indices)


def configured_root(config: DataConfig) -> Path:
    """The folder that `data.root` names."""
    if config.root is None:
        raise BnrecalError(f"data={config.name} needs data.root=PATH, the folder that holds train/ and val/")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise BnrecalError(f"data.root={config.root} is not a folder")
    return root
