"""`data=glyphs`: the embedded data set, drawn from the fonts of the matplotlib wheel, nothing to download."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from bnrecal.config import DataConfig
from bnrecal.data.base import ImageSource, Split
from bnrecal.data.glyphs.atlas import CODE_POINTS, load_atlas
from bnrecal.data.glyphs.draw import BLOCK, CLASSES, SIDE, VERSION, Difficulty, DrawSplit, draw_block
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path, cache_path, warn_once

GLYPH_PREPROCESSING = Preprocessing(resize=None, crop=None, mean=(0.5, 0.5, 0.5), std=(0.128, 0.128, 0.128))
"""What the networks trained on glyphs want (mean and deviation of the training images, rounded)."""

VAL_IMAGES = 5_000  # of the validation split, where no more are asked for
ROW = 3 * SIDE * SIDE + 1  # bytes of an image as it is kept: its pixels and its label
_QUIET_BLOCKS = 25  # about a second of drawing; more than that shows a progress bar


log = logging.getLogger("bnrecal")


def from_config(config: DataConfig) -> "GlyphSource":
    """`GlyphSource` as the settings ask for it: as many validation images as they ask for can be drawn."""
    return GlyphSource(val_images=max(VAL_IMAGES, config.val_images or 0))


class GlyphSource(ImageSource):
    """Glyphs of one class each, 32x32 RGB; an image depends on (seed, split, index) alone.

    A split is drawn once and kept as one file in `cache_path("glyphs")`, named by a hash of everything that
    decides its pixels. Nothing is drawn before the first image is asked for.

    Args:
        seed: of the drawing; the shipped checkpoints were trained on seed 0.
        train_images, val_images: how many images each split has; more images continue the same sequence.
        held_out: "val" is what results are measured on; "dev" is a third sequence, for choosing the
            difficulty and the training recipe without looking at "val".
    """

    name = "glyphs"
    num_classes = CLASSES
    in_memory = True

    def __init__(
        self,
        seed: int = 0,
        train_images: int = 40_000,
        val_images: int = VAL_IMAGES,
        *,
        held_out: Literal["val", "dev"] = "val",
        difficulty: Difficulty | None = None,
    ) -> None:
        for what, number in (("train_images", train_images), ("val_images", val_images)):
            if number < 1:
                raise BnrecalError(f"glyphs: {what} must be at least 1, not {number}")
        if seed < 0:
            raise BnrecalError(f"glyphs: seed must not be negative, not {seed}")
        self.seed = seed
        self.difficulty = difficulty or Difficulty()
        self._size: dict[Split, int] = {"train": train_images, "val": val_images}
        self._sequence: dict[Split, DrawSplit] = {"train": "train", "val": held_out}
        self._drawn: dict[Split, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the images: another process maps the same file and need not be sent 140 MB."""
        return {**vars(self), "_drawn": {}}

    def size(self, split: Split) -> int:
        return self._size[split]

    def images(self, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The whole split: (size, 3, 32, 32) memory-mapped from the cache, and its labels (size,)."""
        if split not in self._drawn:
            self._drawn[split] = self._open(split)
        return self._drawn[split]

    def dataset(
        self, split: Split, indices: Sequence[int], preprocessing: Preprocessing, *, augment: bool = False
    ) -> Dataset[tuple[Tensor, int]]:
        """Return the images; the augmentation is a random shift, without flips (b is not d)."""
        if preprocessing.resize is not None or preprocessing.crop is not None:
            raise BnrecalError(f"glyphs are {SIDE}x{SIDE} and taken whole: resize and crop must be null")
        size = self.size(split)
        outside = next((index for index in indices if not 0 <= index < size), None)
        if outside is not None:
            raise BnrecalError(f"glyphs: image {outside} asked for, {split} has 0..{size - 1}")
        images, labels = self.images(split)
        return GlyphDataset(images, labels, np.asarray(indices, dtype=np.int64), preprocessing, augment)

    def fingerprint(self, split: Split, indices: Sequence[int]) -> str:
        chosen = hashlib.sha256(np.asarray(indices, dtype="<i8").tobytes()).hexdigest()
        text = f"{self._key()}|{self.seed}|{self._sequence[split]}|{chosen}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _key(self) -> str:
        """Hash of what decides the pixels besides seed and split (the atlas stands for the fonts)."""
        text = f"{VERSION}|{BLOCK}|{CODE_POINTS}|{sorted(asdict(self.difficulty).items())}"
        return hashlib.sha256(text.encode() + load_atlas().cells.tobytes()).hexdigest()[:12]

    def _open(self, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        size = self._size[split]
        path = cache_path("glyphs") / f"{self._sequence[split]}-seed{self.seed}-{size}-{self._key()}.npy"
        records = _map(path, size)
        if records is None:
            if path.exists():
                log.warning("%s is damaged: drawing the images again", path)
            records = self._drawn_into(path, split)
        return records[:, :-1].reshape(size, 3, SIDE, SIDE), _labels(records)

    def _drawn_into(self, path: Path, split: Split) -> npt.NDArray[np.uint8]:
        """The rows of a split, drawn into the cache, or into memory where that cannot be written."""
        size = self._size[split]
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (size, ROW)}
                np.lib.format.write_array_header_1_0(file, header)
                for rows in self._draw(split):
                    file.write(rows.tobytes())
            records = _map(path, size)
            if records is not None:
                return records
            reason = "it keeps no whole file"
        except BnrecalError as error:
            reason = str(error.__cause__)
        warn_once(f"{path.parent} cannot be used ({reason}): the images are drawn into memory, in every process")
        return np.concatenate(list(self._draw(split)))

    def _draw(self, split: Split) -> Iterator[npt.NDArray[np.uint8]]:
        """Blocks of rows, one row per image: its pixels, then its label."""
        size, sequence = self._size[split], self._sequence[split]
        blocks = -(-size // BLOCK)
        quiet = blocks <= _QUIET_BLOCKS
        for block in tqdm(range(blocks), f"drawing glyphs ({sequence})", mininterval=1, disable=quiet or None):
            images, labels = draw_block(self.seed, sequence, block, self.difficulty)
            rows = torch.cat([images.flatten(1), labels[:, None].to(torch.uint8)], dim=1)
            yield rows[: size - block * BLOCK].numpy()


class GlyphDataset(Dataset[tuple[Tensor, int]]):
    """Chosen glyphs as network inputs; whole batches at once through `__getitems__`."""

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int64],
        preprocessing: Preprocessing,
        augment: bool,
    ) -> None:
        self._images, self._labels, self._indices = images, labels, indices
        self._mean = torch.tensor(preprocessing.mean)[:, None, None]
        self._std = torch.tensor(preprocessing.std)[:, None, None]
        self._augment = augment

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, int]]:
        images, labels = self.batch(positions)
        return list(zip(images.unbind(), labels.tolist(), strict=True))

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The images at these positions as one tensor (N, 3, 32, 32), and their labels (N,)."""
        chosen = self._indices[np.asarray(positions, dtype=np.int64)]
        images = (torch.from_numpy(self._images[chosen]).float() / 255 - self._mean) / self._std
        if self._augment:
            images = shift(images)
        return images, torch.from_numpy(self._labels[chosen])


def shift(images: Tensor, furthest: int = 2) -> Tensor:
    """The training augmentation: each image moved by up to `furthest` whole pixels, mirrored at the border.

    Whole pixels, because interpolation would blur the noise and with it move the very statistics that
    BatchNorm keeps. Draws two numbers per image from the global torch generator, and nothing else.
    """
    start = torch.randint(2 * furthest + 1, (2, len(images), 1))
    rows = torch.arange(images.shape[2]) + start[0]
    columns = torch.arange(images.shape[3]) + start[1]
    padded = F.pad(images, [furthest] * 4, mode="reflect")
    which = torch.arange(len(images))[:, None, None]
    # Indexed so, the channels come last.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _labels(records: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the last number of each row, where rows are mapped from a file through a map of its own, which ends.

    What is read of a map stays in memory as long as it does, and there is a label on every page.
    """
    if isinstance(records, np.memmap) and Path(str(records.filename)).exists():
        records = np.memmap(str(records.filename), mode="r", offset=records.offset, shape=records.shape)
    return records[:, -1].astype(np.int64)


def _map(path: Path, size: int) -> npt.NDArray[np.uint8] | None:
    """The cached rows, or None if there are none or the file is not whole."""
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.shape == (size, ROW) and rows.dtype == np.uint8 else None
