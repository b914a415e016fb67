"""Images chosen from a split, at random by a seed or all in order."""

from dataclasses import dataclass
from typing import TypedDict

import torch

from bnrecal.data.base import ImageSource, Split
from bnrecal.errors import BnrecalError
from bnrecal.seeds import derive_seed


class ImagesRecord(TypedDict):
    """A choice of images.

    Attributes:
        seed: of the choice; None where the whole split is taken in order.
        fingerprint: of their names.
    """

    split: str
    images: int
    seed: int | None
    fingerprint: str


@dataclass(frozen=True)
class Selection:
    """Some images of a split.

    Attributes:
        role: what they are for: "calibration", "recalibration", "validation". Part of an experiment's identity.
        indices: in the order they are taken.
        seed: of the random choice, None where the whole split is taken in order.
        label: text of the progress bar, in place of `role`; nothing depends on it.
        start: place of the first image in `whole`.
        whole: every image, where this is a contiguous share that one rank takes; None: these are all.
    """

    role: str
    split: Split
    indices: tuple[int, ...]
    seed: int | None
    label: str = ""
    start: int = 0
    whole: tuple[int, ...] | None = None

    def provenance(self, source: ImageSource) -> ImagesRecord:
        """Return what finds the same images again."""
        return {
            "split": self.split,
            "images": len(self.indices),
            "seed": self.seed,
            "fingerprint": source.fingerprint(self.split, self.indices),
        }


def choose(source: ImageSource, split: Split, role: str, images: int | None, seed: int) -> Selection:
    """`images` of the split at random without repetition, or (None) all of them in order.

    The choice depends on (seed, role, size of the split) alone.
    """
    size = source.size(split)
    if images is None:
        return Selection(role, split, tuple(range(size)), None)
    if images > size:
        raise BnrecalError(f"{role} asks for {images} images, the {split} split of {source.name} has {size}")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(derive_seed(seed, role)))
    chosen = order[:images].tolist()
    return Selection(role, split, tuple(sorted(chosen) if split == "val" else chosen), seed)
