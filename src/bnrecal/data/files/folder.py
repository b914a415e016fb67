"""Data sets whose images are files below `data.root`: what ImageNet, Imagenette and image folders share."""

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from bnrecal.data.base import ImageSource, Split
from bnrecal.data.crops import CropDataset
from bnrecal.data.files.decode import decode
from bnrecal.data.files.index import Index
from bnrecal.data.files.layout import advice
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.files import log_once, warn_once

UNREADABLE = -1  # the label of an image that could not be read and is to be left out of every figure
OF_ANOTHER_SPLIT = -2  # the label of a file that belongs to the other split of the same folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """The labelled images of one split.

    Attributes:
        root: the split's folder.
        index: all image files below it.
        kept: int64 (images,), the positions in `index` of the files that belong to the set.
        labels: int64 (images,), their labels.
    """

    root: Path
    index: Index
    kept: NDArray[np.int64]
    labels: NDArray[np.int64]


def labelled(root: Path, index: Index, labels: NDArray[np.int64], *, split: Split, unlabelled: str) -> Listing:
    """The files of `index` whose label, int64 (files,), is not negative. A line in the log counts them and the rest.

    Args:
        labels: -1 leaves a file out, as does OF_ANOTHER_SPLIT without a word.
        unlabelled: why files with the label -1 are left out, in the plural.
    """
    kept = np.flatnonzero(labels >= 0)
    left_out = dict(index.left_out)
    without = np.flatnonzero(labels == -1)
    if len(without):
        left_out[unlabelled] = [index.name(int(i)) for i in without]
    if not len(kept):
        raise BnrecalError(
            f"no images of the data set below {root}: {advice(root) or 'check data.root'}{_describe_left_out(left_out)}"
        )
    log_count(split, root, len(kept), left_out)
    return Listing(root, index, kept, labels[kept])


def log_count(split: Split, root: Path | str, images: int, left_out: dict[str, list[str]], of: str = "files") -> None:
    """Log a line that counts the images of a split and what was left out, by reason."""
    entries = images + sum(map(len, left_out.values()))
    message = f"{split}: {images:,} images of {entries:,} {of} in {root}{_describe_left_out(left_out)}"
    if left_out:
        warn_once(message)
    else:
        log_once(message)


def _describe_left_out(left_out: dict[str, list[str]]) -> str:
    parts = [f"{len(names):,} {reason} ({some(names)})" for reason, names in left_out.items()]
    return f"; left out: {', '.join(parts)}" if parts else ""


def some(names: Collection[str]) -> str:
    """The first few names in sorted order, for a message."""
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


def refuse_two_layouts(root: Path, index: Index) -> None:
    """Raise BnrecalError where images lie beside class folders with images: one of them would be left out."""
    loose = int(np.sum(index.folder_of == 0))
    below = [index.folders[i] for i in np.unique(index.folder_of) if i]
    if loose and below:
        raise BnrecalError(
            f"{root} holds {loose:,} images of its own beside folders with {len(index) - loose:,} ({some(below)}): "
            "put every image into the folder of its class, or all into one"
        )


class FolderSource(ImageSource):
    """Two splits of image files. Each is listed when first asked for."""

    def __init__(
        self,
        name: str,
        num_classes: int,
        splits: dict[Split, Callable[[], Listing]],
        *,
        restricted_classes: Sequence[int] | None = None,
        skip_corrupt: bool = False,
        imagenet_classes: bool = False,
    ) -> None:
        self.name = name
        self.imagenet_classes = imagenet_classes
        self.num_classes = num_classes
        self.restricted_classes = restricted_classes
        self.skip_corrupt = skip_corrupt
        self._list = splits
        self._listings: dict[Split, Listing] = {}

    def _listing(self, split: Split) -> Listing:
        if split not in self._listings:
            self._listings[split] = self._list[split]()
        return self._listings[split]

    def size(self, split: Split) -> int:
        return len(self._listing(split).kept)

    def paths(self, split: Split, indices: Sequence[int]) -> list[str]:
        """Names of the chosen files relative to the split's folder."""
        listing = self._listing(split)
        return [listing.index.name(int(i)) for i in listing.kept[list(indices)]]

    def dataset(
        self, split: Split, indices: Sequence[int], preprocessing: Preprocessing, *, augment: bool = False
    ) -> Dataset[tuple[Tensor, int]]:
        listing = self._listing(split)
        labels = listing.labels[list(indices)].tolist()
        picture = partial(_decoded, str(listing.root), self.paths(split, indices))
        return FileDataset(picture, labels, preprocessing, augment, self.skip_corrupt)

    def fingerprint(self, split: Split, indices: Sequence[int]) -> str:
        listing = self._listing(split)
        digest = hashlib.sha256(f"{self.name}|{split}|".encode())
        for name, label in zip(self.paths(split, indices), listing.labels[list(indices)], strict=True):
            digest.update(f"{name}|{label}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def version(self, split: Split, indices: Sequence[int]) -> str:
        """Names, labels, sizes and modification times."""
        root = self._listing(split).root
        digest = hashlib.sha256(self.fingerprint(split, indices).encode())
        for name in self.paths(split, indices):
            try:
                found = (root / name).stat()
            except OSError:
                continue  # reported with its path when it is read
            digest.update(f"{found.st_size}|{found.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]


def _decoded(root: str, names: Sequence[str], i: int) -> Image.Image:
    return decode(f"{root}/{names[i]}")


class FileDataset(CropDataset):
    """Chosen pictures in a chosen order, read one at a time.

    Args:
        picture: returns picture i, RGB, or raises BnrecalError; it is pickled for processes that load.
        labels: one a picture.
        augment: the training transform, drawn from the global torch generator, instead of the evaluation one.
        skip_corrupt: give an unreadable picture as black with label UNREADABLE (-1) and log its path, instead
            of raising BnrecalError.
    """

    def __init__(
        self,
        picture: Callable[[int], Image.Image],
        labels: Sequence[int],
        preprocessing: Preprocessing,
        augment: bool,
        skip_corrupt: bool,
    ) -> None:
        super().__init__(preprocessing)
        self.picture = picture
        self.labels = list(labels)
        self.augment = augment
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.labels)

    def crop(self, i: int) -> tuple[Tensor, int]:
        if not 0 <= i < len(self.labels):
            raise IndexError(i)
        try:
            picture = self.picture(i)
        except BnrecalError as error:
            if not self.skip_corrupt:
                raise BnrecalError(f"{error} (data.skip_corrupt=true counts such images instead)") from error
            log.warning("left out: %s", error)
            return self._blank(), UNREADABLE
        cut = self.preprocessing.random_crop if self.augment else self.preprocessing.central_crop
        return cut(picture), self.labels[i]

    def _blank(self) -> Tensor:
        side = self.preprocessing.crop or self.preprocessing.resize or 1
        return torch.zeros(side, side, 3, dtype=torch.uint8)
