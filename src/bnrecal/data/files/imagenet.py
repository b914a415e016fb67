"""ImageNet (ILSVRC 2012): train/<wnid>/ and val/<wnid>/, or a flat val/ with its labels in a file."""

from functools import partial
from pathlib import Path

import numpy as np

from bnrecal.config import DataConfig
from bnrecal.data.base import Split, configured_root
from bnrecal.data.files.folder import FolderSource, Listing, labelled, refuse_two_layouts, some
from bnrecal.data.files.index import Index, list_images
from bnrecal.data.files.label_lists import GROUND_TRUTH, KAGGLE, VAL_TXT, labels_from, wnids
from bnrecal.data.files.layout import advice, require_split
from bnrecal.errors import BnrecalError
from bnrecal.files import log_once, warn_once

_DEVKIT = "ILSVRC2012_devkit_t12/data"


def from_config(config: DataConfig) -> FolderSource:
    """`imagenet` as the settings ask for it."""
    return imagenet(configured_root(config), skip_corrupt=config.skip_corrupt)


def imagenet(root: Path, *, skip_corrupt: bool = False) -> FolderSource:
    """ImageNet below `root`; labels are places among the 1,000 synset ids, whichever folders exist.

    A flat `val/` takes its labels from `val.txt` (lines of "file class", classes 0..999), Kaggle's
    LOC_val_solution.csv, or the devkit's ground truth with the meta.mat beside it, found in val/, in root, in
    root/ILSVRC2012_devkit_t12/data, or (for Kaggle's ILSVRC/Data/CLS-LOC) in the folder that holds ILSVRC.

    Raises:
        BnrecalError: if train/ or val/ is missing, here; when a split is first used, if it holds no images of
            the 1,000 classes, images both loose and in folders, or a flat val/ without labels.
    """
    for split in ("train", "val"):
        require_split(root, split, "it needs train/<wnid>/ and val/")
    return FolderSource(
        "imagenet",
        len(wnids()),
        {"train": partial(_by_folder, root, "train"), "val": partial(_validation, root)},
        skip_corrupt=skip_corrupt,
        imagenet_classes=True,
    )


def _validation(root: Path) -> Listing:
    folder = root / "val"
    index = list_images(folder)
    refuse_two_layouts(folder, index)
    flat = bool(np.any(index.folder_of == 0))
    if not flat and set(index.classes()) & set(wnids()):
        return _by_folder(root, "val")
    source = _label_file(root, index)
    log_once(f"val: labels from {source}")
    labels = labels_from(source, [index.name(i) for i in range(len(index))])
    return labelled(folder, index, labels, split="val", unlabelled=f"not in {source.name}")


def _by_folder(root: Path, split: Split) -> Listing:
    folder = root / split
    index = list_images(folder)
    refuse_two_layouts(folder, index)
    _refuse_numbers(folder, index)
    numbers = {wnid: number for number, wnid in enumerate(wnids())}
    labels = index.class_of(numbers)
    listing = labelled(folder, index, labels, split=split, unlabelled="in folders that are no ImageNet class")
    present = np.unique(listing.labels)
    missing = np.delete(np.array(wnids()), present).tolist()
    if missing:
        warn_once(f"{split}: {len(missing):,} of the 1,000 classes have no images in {folder}: {some(missing)}")
    return listing


def _refuse_numbers(folder: Path, index: Index) -> None:
    numbers = [name for name in index.classes() if name.isdecimal()]
    if numbers and not set(index.classes()) & set(wnids()):
        raise BnrecalError(
            f"{folder} has class folders named by numbers ({some(numbers)}), in whatever order: name them by synset id "
            f"({wnids()[0]}), or take data=imagefolder if they are the network's classes in its own order"
        )


def _label_file(root: Path, index: Index) -> Path:
    folders = [root / "val", root, root / _DEVKIT]
    if root.resolve().match("ILSVRC/Data/CLS-LOC"):
        folders.append(root.resolve().parents[2])
    for name in (VAL_TXT, KAGGLE, GROUND_TRUTH):
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    _refuse_numbers(root / "val", index)
    wanted = f"put val.txt (lines of 'file class') or the devkit's {GROUND_TRUTH} and meta.mat into {root}"
    raise BnrecalError(f"{root / 'val'} has no class folders: {advice(root / 'val') or wanted}")
