"""ImageNet (ILSVRC 2012): train/<wnid>/ and val/<wnid>/, or a flat val/ with its labels in a file."""

import csv
import logging
import re
from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnrecal.data.base import Split
from bnrecal.data.folder import FolderSource, Listing, labelled
from bnrecal.data.index import Index, list_images
from bnrecal.errors import BnrecalError

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_DEVKIT = "ILSVRC2012_devkit_t12/data"
_KAGGLE = "LOC_val_solution.csv"
_VAL_NUMBER = re.compile(r"_val_(\d{8})\.")

log = logging.getLogger(__name__)


@cache
def wnids() -> tuple[str, ...]:
    """The 1,000 synset ids in class order (sorted, which is the order of every published network)."""
    return tuple(files("bnrecal.data").joinpath("imagenet_wnids.txt").read_text().split())


def imagenet(root: Path, *, skip_corrupt: bool = False) -> FolderSource:
    """ImageNet below `root`; labels are places among the 1,000 synset ids, whichever folders exist.

    A flat `val/` takes its labels from `val.txt` (lines of "file class", classes 0..999), Kaggle's
    LOC_val_solution.csv, or the devkit's ground truth with the meta.mat beside it, found in val/, in root, or
    in root/ILSVRC2012_devkit_t12/data.

    Raises:
        BnrecalError: if train/ or val/ is missing, here; when a split is first used, if it holds no images of
            the 1,000 classes or a flat val/ has no labels.
    """
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise BnrecalError(f"data.root={root} has no folder {split}/: it needs train/<wnid>/ and val/")
    return FolderSource(
        "imagenet",
        len(wnids()),
        {"train": partial(_by_folder, root, "train"), "val": partial(_validation, root)},
        skip_corrupt=skip_corrupt,
    )


def _validation(root: Path) -> Listing:
    folder = root / "val"
    index = list_images(folder)
    if index.classes() and any(name in set(wnids()) for name in index.classes()):
        return _by_folder(root, "val")
    return labelled(folder, index, _flat_labels(root, index))


def _by_folder(root: Path, split: Split) -> Listing:
    index = list_images(root / split)
    numbers = {wnid: number for number, wnid in enumerate(wnids())}
    labels = index.class_of(numbers)
    extra = set(index.classes()) - set(numbers)
    _tell("%s: %d folders are no ImageNet class and are left out: %s", split, extra)
    present = set(np.unique(labels[labels >= 0]).tolist())
    missing = {wnid for number, wnid in enumerate(wnids()) if number not in present}
    if present:
        _tell("%s: %d of the 1,000 classes have no images: %s", split, missing)
    return labelled(root / split, index, labels)


def _tell(message: str, split: str, names: set[str]) -> None:
    if names:
        shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
        log.warning(message, split, len(names), shown)


def _flat_labels(root: Path, index: Index) -> NDArray[np.int64]:
    """int64 (files,): the label of each file of a flat val/, -1 for files that have none."""
    source = _label_file(root)
    if source.name == "val.txt":
        by_name = _caffe_labels(source)
    elif source.name == _KAGGLE:
        by_name = _kaggle_labels(source)
    else:
        return _devkit_labels(source, index)
    names = [index.name(i) for i in range(len(index))]
    return np.array([by_name.get(_stem(name), -1) for name in names], np.int64)


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _label_file(root: Path) -> Path:
    for name in ("val.txt", _KAGGLE, _GROUND_TRUTH):
        for folder in (root / "val", root, root / _DEVKIT):
            if (folder / name).is_file():
                return folder / name
    raise BnrecalError(
        f"{root / 'val'} has no class folders: put val.txt (lines of 'file class') or the devkit's "
        f"{_GROUND_TRUTH} and meta.mat into {root}"
    )


def _caffe_labels(path: Path) -> dict[str, int]:
    labels = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].isdecimal() or int(parts[1]) >= len(wnids()):
            raise BnrecalError(f"{path} line {number}: {line!r} is not 'file class' with a class of 0..999")
        labels[_stem(parts[0])] = int(parts[1])
    return labels


def _kaggle_labels(path: Path) -> dict[str, int]:
    """From rows of "ImageId,PredictionString", where the prediction string opens with a synset id."""
    numbers = {wnid: number for number, wnid in enumerate(wnids())}
    labels = {}
    with path.open(newline="") as file:
        for row in csv.reader(file):
            wnid = row[1].split()[0] if len(row) > 1 and row[1].strip() else ""
            if wnid in numbers:
                labels[row[0]] = numbers[wnid]
    if not labels:
        raise BnrecalError(f"{path} holds no rows of 'ImageId,wnid ...'")
    return labels


def _devkit_labels(path: Path, index: Index) -> NDArray[np.int64]:
    """Line n of the ground truth is the ILSVRC id (1..1000, in an order of its own) of validation image n."""
    meta = path.parent / "meta.mat"
    if not meta.is_file():
        raise BnrecalError(f"{path} counts classes in an order of its own: put the devkit's meta.mat beside it")
    class_of_id = _devkit_classes(meta)
    truth = [int(line) for line in path.read_text().split()]
    labels = np.full(len(index), -1, np.int64)
    for i in range(len(index)):
        match = _VAL_NUMBER.search(index.name(i))
        if match is not None and 1 <= int(match[1]) <= len(truth):
            labels[i] = class_of_id[truth[int(match[1]) - 1]]
    return labels


def _devkit_classes(meta: Path) -> dict[int, int]:
    """ILSVRC id -> class number, from the devkit's meta.mat (its leaves are the 1,000 classes)."""
    from scipy.io import loadmat  # a second of imports that only this layout needs
    from scipy.io.matlab import MatReadError

    try:
        synsets: Sequence[Any] = loadmat(str(meta), squeeze_me=True)["synsets"]
        leaves = [row for row in synsets if int(row["num_children"]) == 0]
        ids = {str(row["WNID"]): int(row["ILSVRC2012_ID"]) for row in leaves}
        return {ids[wnid]: number for number, wnid in enumerate(wnids())}
    except (MatReadError, KeyError, ValueError, IndexError, TypeError, OSError) as error:
        raise BnrecalError(f"{meta} is not the devkit's meta.mat of ILSVRC 2012 ({error!r})") from error
