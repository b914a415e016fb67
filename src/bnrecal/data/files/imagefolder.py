"""Your own classification set: train/<class>/ and val/<class>/, classes numbered in sorted order."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from bnrecal.config import DataConfig
from bnrecal.data.base import Split, configured_root
from bnrecal.data.files.folder import FolderSource, Listing, labelled, refuse_two_layouts, some
from bnrecal.data.files.index import list_images
from bnrecal.data.files.layout import advice, require_split
from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once


def from_config(config: DataConfig) -> FolderSource:
    """The images below train/ and val/ of `data.root`.

    Raises:
        BnrecalError: if a split is missing, the splits' class folders differ, or their order is not clear; when a split
            is first used, if images lie beside its class folders.
    """
    root = configured_root(config)
    classes = _classes(root, "train")
    different = set(classes) ^ set(_classes(root, "val"))
    if different:
        raise BnrecalError(f"{root}: train/ and val/ must have the same classes, {min(different)} is in one")
    numbers = {name: number for number, name in enumerate(in_class_order(classes))}
    return FolderSource(
        "imagefolder",
        len(classes),
        {"train": partial(_split, root, "train", numbers), "val": partial(_split, root, "val", numbers)},
        skip_corrupt=config.skip_corrupt,
    )


def in_class_order(names: Sequence[str]) -> list[str]:
    """Class folders in the order of their class numbers: numbers by their value, other names as text.

    Raises:
        BnrecalError: where both orders are possible: numbers beside names, or some padded with zeros and some not.
    """
    as_text = sorted(names)
    numeric = [name for name in as_text if name.isascii() and name.isdecimal()]
    by_value = sorted(numeric, key=int)
    if numeric == by_value and len(set(map(int, numeric))) == len(numeric):
        return as_text
    width = min(map(len, numeric))
    odd = next((name for name in by_value if name != str(int(name)).zfill(width)), None)
    if odd is not None:
        short = min(by_value, key=len)
        raise BnrecalError(f"class folders {short} and {odd} are padded with zeros to different widths: pad all to one")
    # the first neighbours in text order whose values are the other way round
    high, low = next((before, after) for before, after in pairwise(numeric) if int(before) > int(after))
    if len(numeric) < len(names):
        other = next(name for name in as_text if name not in numeric)
        raise BnrecalError(
            f"class folders are numbers ({low}, {high}) and names ({other}), so whether {low} or {high} comes first is "
            "not clear: pad the numbers with zeros to one width"
        )
    warn_once(
        f"class folders are numbers and taken as such, {low} before {high}; a network trained with torchvision's "
        f"ImageFolder counted them as text, {high} before {low}: for such a one pad or rename them"
    )
    return by_value


def _classes(root: Path, split: Split) -> list[str]:
    folder = require_split(root, split, f"images lie in {split}/<class>/")
    classes = [path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    if not classes:
        instead = advice(folder)
        hint = f": {instead}" if instead else ""
        raise BnrecalError(f"{folder} has no class folders{hint}")
    return classes


def _split(root: Path, split: Split, numbers: dict[str, int]) -> Listing:
    folder = root / split
    index = list_images(folder)
    refuse_two_layouts(folder, index)
    labels = index.class_of(numbers)
    listing = labelled(folder, index, labels, split=split, unlabelled="in no class folder")
    present = set(listing.labels.tolist())
    missing = [name for name, number in numbers.items() if number not in present]
    if missing:
        warn_once(f"{split}: {len(missing):,} of {len(numbers):,} classes have no images in {folder}: {some(missing)}")
    return listing
