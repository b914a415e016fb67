"""Your own classification set: train/<class>/ and val/<class>/, classes numbered in sorted order."""

from functools import partial
from pathlib import Path

from bnrecal.data.base import Split
from bnrecal.data.folder import FolderSource, Listing, labelled
from bnrecal.data.index import list_images
from bnrecal.errors import BnrecalError


def imagefolder(root: Path, *, skip_corrupt: bool = False) -> FolderSource:
    """The images below root/train and root/val.

    Raises:
        BnrecalError: if a split is missing, or the splits' class folders differ.
    """
    classes = _classes(root, "train")
    different = set(classes) ^ set(_classes(root, "val"))
    if different:
        raise BnrecalError(f"{root}: train/ and val/ must have the same classes, {min(different)} is in one")
    numbers = {name: number for number, name in enumerate(classes)}
    return FolderSource(
        "imagefolder",
        len(classes),
        {"train": partial(_split, root, "train", numbers), "val": partial(_split, root, "val", numbers)},
        skip_corrupt=skip_corrupt,
    )


def _classes(root: Path, split: Split) -> list[str]:
    folder = root / split
    if not folder.is_dir():
        raise BnrecalError(f"data.root={root} has no folder {split}/: images lie in {split}/<class>/")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not classes:
        raise BnrecalError(f"{folder} has no class folders")
    return classes


def _split(root: Path, split: Split, numbers: dict[str, int]) -> Listing:
    index = list_images(root / split)
    return labelled(root / split, index, index.class_of(numbers))
