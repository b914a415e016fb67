"""Loaders that bring images to a network."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bnrecal.data.base import ImageSource
from bnrecal.data.crop_cache import CropCache, Draw
from bnrecal.data.crops import CropDataset, Crops
from bnrecal.data.prefetch import copied_ahead
from bnrecal.data.preprocessing import Normalization, Preprocessing
from bnrecal.data.selection import Selection
from bnrecal.display import progress
from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once
from bnrecal.seeds import derive_seed

T = TypeVar("T")
PREFETCHED = 2  # batches that each loading process has ready: DataLoader's default
SHARED = Path("/dev/shm")
PART = 64  # images that a worker prepares at a time for a larger batch on a GPU


class _Seeded(Dataset[tuple[Tensor, int]]):
    """Draws the augmentation of each batch from its own seed, so that worker processes do not change it."""

    def __init__(self, dataset: Dataset[tuple[Tensor, int]], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, positions: list[int]) -> list[tuple[Tensor, int]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "augmentation", positions[0]))
            if hasattr(self.dataset, "__getitems__"):
                items: list[tuple[Tensor, int]] = self.dataset.__getitems__(positions)
                return items
            return [self.dataset[position] for position in positions]


@dataclass(frozen=True)
class ImageLoader:
    """The loader of an experiment's images.

    Attributes:
        workers: processes that load them; None: none for a set in memory, else one per core.
        beside: how many such loaders share this machine's cores.
        crop_cache: where decoded images are kept; None: nowhere.
    """

    source: ImageSource
    preprocessing: Preprocessing
    device: torch.device
    workers: int | None = None
    beside: int = 1
    crop_cache: CropCache | None = None

    def batches(
        self, selection: Selection, batch_size: int, *, augment: bool = False, seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (float32 (N, 3, H, W) channels-last, int64 (N,)) on the device, with a progress bar.

        Decoded images travel as uint8 and are normalised on the device. To a GPU each batch is copied while the one
        before it is being computed with.
        """
        dataset = self.source.dataset(selection.split, selection.indices, self.preprocessing, augment=augment)
        as_crops = isinstance(dataset, CropDataset)
        if isinstance(dataset, CropDataset):
            dataset = Crops(dataset)
        if augment:
            dataset = _Seeded(dataset, seed)
        if as_crops and self.crop_cache is not None:
            draw = Draw(seed, batch_size) if augment else None
            dataset = self.crop_cache.keeping(dataset, self.source, selection, self.preprocessing, draw)
        pinned = self.device.type == "cuda"
        # Large batches are put together from parts, or every worker would hold several of them. Augmentation is
        # drawn batch by batch: there the parts would change it.
        part = batch_size if augment or not pinned else part_of(batch_size)
        generator = torch.Generator().manual_seed(seed)  # else the loader draws from the global one
        workers = min(self._workers(), -(-len(selection.indices) // part))
        workers = fitting_workers(workers, self._bytes(part) // (4 if as_crops else 1))
        loader = DataLoader(
            dataset,
            part,
            num_workers=workers,
            pin_memory=pinned,
            generator=generator,
            multiprocessing_context=_start_method() if workers else None,
        )
        bar = progress(loader, selection.label or selection.role, "batch")
        parts: Iterable[tuple[Tensor, Tensor]] = _unwrapped(bar)
        if pinned:
            parts = copied_ahead(parts, self.device)
        normalized = Normalization(self.preprocessing, self.device)
        for images, labels in joined(parts, batch_size // part):
            if as_crops:
                yield normalized(images.to(self.device)), labels
            else:
                yield images.to(self.device, memory_format=torch.channels_last), labels

    def images(self, *args: Any, **kwargs: Any) -> Iterator[Tensor]:
        """The readable images of `batches`, without labels."""
        for images, labels in self.batches(*args, **kwargs):
            readable = images[labels >= 0]
            if len(readable):
                yield readable

    def _bytes(self, images: int) -> int:
        """The size of so many float32 network inputs, as far as the preprocessing says it."""
        side = self.preprocessing.crop or self.preprocessing.resize or 0
        return images * 3 * side * side * 4

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        if self.source.in_memory:
            return 0
        return usual_workers(self.beside)


def _start_method() -> str:
    """Return how loading processes start: Python's way, except within one of joblib's processes.

    Those have a start method of their own, whose processes torch cannot make into loading ones.
    """
    usual = multiprocessing.get_start_method()
    if usual in ("fork", "forkserver", "spawn"):
        return usual
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def part_of(batch_size: int) -> int:
    """Images that a worker prepares at a time for a large batch: a divisor of it, if there is one from 16 to PART."""
    return next((n for n in range(PART, 15, -1) if batch_size % n == 0), batch_size)


def joined(parts: Iterable[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` parts at a time as one batch; the last may have fewer."""
    parts = iter(parts)
    while batch := list(islice(parts, count)):
        if len(batch) == 1:
            yield batch[0]
        else:
            yield torch.cat([images for images, _ in batch]), torch.cat([labels for _, labels in batch])


def usual_workers(beside: int = 1) -> int:
    """Loading processes of each of so many loaders on this machine: one per core."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // beside)


def fitting_workers(workers: int, batch: int) -> int:
    """Return how many of so many loading processes the shared memory has room for, with a warning where it lacks.

    Processes hand their batches over in /dev/shm, of which a container of Docker has 64 MB.

    Args:
        batch: bytes of one batch; each process holds up to PREFETCHED of them.
    """
    if not workers or not batch or not SHARED.is_dir():
        return workers
    status = os.statvfs(SHARED)
    free = status.f_bavail * status.f_frsize
    fitting = min(workers, free // (PREFETCHED * batch))
    if fitting < workers:
        instead = f"{fitting} load images" if fitting else "images are loaded without processes of their own"
        warn_once(
            f"{SHARED} has {free / 1e6:.0f} MB free, too few for {workers} loading processes that hold up to "
            f"{PREFETCHED * batch / 1e6:.0f} MB each: {instead}; give a container more (docker run --shm-size=2g), or "
            "set workers=0"
        )
    return fitting


def _unwrapped(batches: Iterable[T]) -> Iterator[T]:
    """The same batches; an error from a worker process loses the traceback that it carries in its message."""
    try:
        yield from batches
    except BnrecalError as error:
        last = str(error).strip().splitlines()[-1]
        raise BnrecalError(last.split(f"{BnrecalError.__name__}: ")[-1]) from error


def check_batch(key: str, batch_size: int, selection: Selection) -> None:
    """Raise BnrecalError if a batch is larger than the set it is drawn from."""
    if batch_size > len(selection.indices):
        raise BnrecalError(
            f"{key}={batch_size} is more than the {len(selection.indices)} {selection.role} images: "
            f"choose {len(selection.indices)} or less"
        )
