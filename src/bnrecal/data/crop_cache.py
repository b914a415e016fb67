"""Decoded crops kept in memory-mapped files, so that later passes over the same images do not decode them again.

One file of NumPy's format holds the crops of one selection of images, a row each. A row is believed by its checksum
alone: what a killed run left half-written, or two runs wrote at once, is either whole or decoded again.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import features
from torch import Tensor
from torch.utils.data import Dataset

from bnrecal.data.base import ImageSource, Split
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.data.selection import Selection
from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once

FORMAT = 1  # to be raised whenever other pixels come out of `Preprocessing`, or rows are laid out differently
_LIBRARIES = ("pillow", "torch", "torchvision", "opencv-python-headless")  # what may decide over pixels
_FILLED = 1 << 32  # in the checksum of a row that was written: a row of a fresh file is all zeros

log = logging.getLogger("bnrecal")


@dataclass(frozen=True)
class Draw:
    """The random augmentation of a selection, which is drawn batch by batch.

    Attributes:
        seed: of the draw.
        batch_size: images that are drawn together.
    """

    seed: int
    batch_size: int


class CropCache:
    """A folder of crops.

    Args:
        folder: made where it is missing.
        versions: what `ImageSource.version` gave for selections of (split, indices); others are asked for once.
    """

    def __init__(self, folder: Path, versions: Mapping[tuple[Split, tuple[int, ...]], str] | None = None) -> None:
        self.folder = folder
        self._versions = dict(versions or {})

    def keeping(
        self,
        dataset: Dataset[tuple[Tensor, int]],
        source: ImageSource,
        selection: Selection,
        preprocessing: Preprocessing,
        draw: Draw | None = None,
    ) -> Dataset[tuple[Tensor, int]]:
        """The images of a dataset of uint8 crops, from the folder as far as they are there; what is missing is added.

        Args:
            dataset: of `selection`, from `source`; with `draw` its `__getitems__` draws the augmentation.
            draw: None for central crops.

        Raises:
            BnrecalError: if the folder cannot be written, or its disk is too small.
        """
        side = preprocessing.crop or (preprocessing.resize if draw else None)
        if side is None:
            warn_once("data.crop_cache keeps images of one size: without model.crop nothing is kept")
            return dataset
        path = self.folder / f"{selection.role}-{self._key(source, selection, preprocessing, draw)}.npy"
        images = len(selection.indices if selection.whole is None else selection.whole)
        make_room(path, images, side)
        return KeptCrops(dataset, path, side, selection.start, together=draw is not None)

    def _key(self, source: ImageSource, selection: Selection, preprocessing: Preprocessing, draw: Draw | None) -> str:
        """A hash of everything that decides over the pixels; mean and std do not."""
        images = selection.indices if selection.whole is None else selection.whole
        place = (selection.split, images)
        if place not in self._versions:
            self._versions[place] = source.version(*place)
        content = [
            FORMAT,
            self._versions[place],
            (preprocessing.resize, preprocessing.crop, preprocessing.interpolation),
            asdict(draw) if draw else None,
            [version(name) for name in _LIBRARIES],
            [features.version(codec) for codec in ("libjpeg_turbo", "jpg", "zlib", "webp")],
        ]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:24]


def row_type(side: int) -> np.dtype[np.void]:
    """A row of a file: checksum, label and pixels of one square crop."""
    return np.dtype([("check", "<u8"), ("label", "<i8"), ("pixels", "u1", (side, side, 3))])


def make_room(path: Path, images: int, side: int) -> None:
    """Make an empty file for so many crops, unless it is there; its size is logged first."""
    if _rows(path, images, side) is not None:
        return
    row = row_type(side)
    size = images * row.itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise BnrecalError(
                f"data.crop_cache={path.parent} has {free / 1e9:.2f} GB free, and {images:,} crops take "
                f"{size / 1e9:.2f} GB: choose another folder, or leave the key out"
            )
        log.info("data.crop_cache: %d crops, %.2f GB, are kept in %s", images, size / 1e9, path)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
            empty = Path(folder) / path.name
            np.lib.format.open_memmap(empty, mode="w+", dtype=row, shape=(images,))
            _publish(empty, path, replace=path.exists())
    except OSError as error:
        raise BnrecalError(
            f"data.crop_cache={path.parent} cannot be written ({error.strerror}): choose another folder"
        ) from error


def _publish(empty: Path, path: Path, *, replace: bool) -> None:
    """Give the file its name; another run's, which may hold rows by now, stays as it is."""
    if replace:  # a damaged one
        empty.replace(path)
        return
    try:
        os.link(empty, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        empty.replace(path)


def _rows(path: Path, images: int, side: int) -> npt.NDArray[np.void] | None:
    """The rows of a file, memory-mapped; None where there is no such file, or not a whole one."""
    try:
        rows: npt.NDArray[np.void] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.dtype == row_type(side) and rows.shape == (images,) else None


class KeptCrops(Dataset[tuple[Tensor, int]]):
    """Images that are read from a file of crops, or from the dataset behind it and then written there.

    Args:
        dataset: gives (uint8 (side, side, 3), label); a negative label is not kept.
        path: the file; it has a row for each image, and may have more.
        first: row of the dataset's first image.
        together: images of one `__getitems__` are only right when all of them come from the dataset, in order.
    """

    def __init__(
        self, dataset: Dataset[tuple[Tensor, int]], path: Path, side: int, first: int = 0, *, together: bool = False
    ) -> None:
        self.dataset = dataset
        self.path = path
        self.side = side
        self.first = first
        self.together = together

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, int]]:
        found = {position: self._kept(position) for position in positions}
        missing = [position for position in positions if found[position] is None]
        if missing:
            wanted = list(positions) if self.together else missing
            for position, item in zip(wanted, self._decoded(wanted), strict=True):
                found[position] = item
                self._keep(position, *item)
        return [item for item in map(found.__getitem__, positions) if item is not None]

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.__getitems__([position])[0]

    def _decoded(self, positions: list[int]) -> list[tuple[Tensor, int]]:
        if self.together:
            items: list[tuple[Tensor, int]] = self.dataset.__getitems__(positions)  # type: ignore[attr-defined]
            return items
        return [self.dataset[position] for position in positions]

    @cached_property
    def _file(self) -> npt.NDArray[np.void]:
        """The rows, opened in the process that reads them: a pickled memory map would be a copy of all."""
        rows: npt.NDArray[np.void] = np.load(self.path, mmap_mode="r")
        return rows

    def _kept(self, position: int) -> tuple[Tensor, int] | None:
        """The image as the file has it; None where it has none, or not a whole one."""
        row = self._file[self.first + position]
        pixels = np.array(row["pixels"])
        label = int(row["label"])
        if int(row["check"]) != checksum(pixels, label):
            return None
        return torch.from_numpy(pixels), label

    def _keep(self, position: int, pixels: Tensor, label: int) -> None:
        """Write a row. Not through the map, which kills the process where a full disk has no page for it."""
        if label < 0:
            return
        rows: Any = self._file
        row = np.zeros((), rows.dtype)
        row["pixels"] = pixels.numpy()
        row["label"] = label
        row["check"] = checksum(row["pixels"], label)
        try:
            with self.path.open("r+b") as file:
                file.seek(rows.offset + (self.first + position) * rows.dtype.itemsize)
                file.write(row.tobytes())
        except OSError as error:
            warn_once(f"{self.path} takes no more crops ({error.strerror}): the others are decoded again next time")


def checksum(pixels: npt.NDArray[np.uint8], label: int) -> int:
    """The checksum of a row; never that of an empty one."""
    return _FILLED | zlib.crc32(pixels.tobytes(), label & 0xFFFFFFFF)
