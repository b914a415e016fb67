"""Imagenette: ten easy classes of ImageNet (1.5 GB at full size), labelled with their ImageNet classes."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnrecal.config import DataConfig
from bnrecal.data.base import Split
from bnrecal.data.files.folder import OF_ANOTHER_SPLIT, FolderSource, Listing, labelled
from bnrecal.data.files.index import Index, list_images
from bnrecal.data.files.label_lists import wnids
from bnrecal.data.files.layout import advice
from bnrecal.errors import BnrecalError
from bnrecal.files import cache_dir

FOLDERS = ("imagenette2", "imagenette2-320", "imagenette2-160")  # torchvision's sizes, the best first
VALIDATION = "ILSVRC2012_val_"  # how the names of ImageNet's validation images begin
_URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz"
CLASSES = (
    "n01440764",  # tench
    "n02102040",  # English springer
    "n02979186",  # cassette player
    "n03000684",  # chain saw
    "n03028079",  # church
    "n03394916",  # French horn
    "n03417042",  # garbage truck
    "n03425413",  # gas pump
    "n03445777",  # golf ball
    "n03888257",  # parachute
)


def from_config(config: DataConfig) -> FolderSource:
    """Imagenette in `data.root` or in the folder below it that the archive unpacks to; null: in the cache folder.

    Labels run over ImageNet's 1,000 classes; `restricted_classes` are its ten.

    Imagenette shuffled ImageNet's training and validation images before it split them: nine in ten of its val/ are
    images that published networks were trained on (n01440764_11400.JPEG), on which a network looks better than it is.
    So its two folders are taken together and split as ImageNet is: files named ILSVRC2012_val_* (50 a class) are the
    validation images, all others the training images.

    `data.download` fetches the full-size archive with torchvision, which checks its hash, if it is not there yet.

    Raises:
        BnrecalError: if it is not there, saying how to get it, or cannot be downloaded.
    """
    root = cache_dir("imagenette") if config.root is None else Path(config.root).expanduser()
    folder = _find(root)
    if folder is None and config.download:
        _download(root)
        folder = _find(root)
    if folder is None:
        seen = advice(root) if root.is_dir() else ""
        raise BnrecalError(
            f"no Imagenette in {root}: {seen or f'set data.download=true, or unpack {_URL} there (or set data.root)'}"
        )
    numbers = {wnid: wnids().index(wnid) for wnid in CLASSES}
    return FolderSource(
        "imagenette",
        len(wnids()),
        {"train": partial(_split, folder, "train", numbers), "val": partial(_split, folder, "val", numbers)},
        restricted_classes=tuple(sorted(numbers.values())),
        skip_corrupt=config.skip_corrupt,
        imagenet_classes=True,
    )


def _find(root: Path) -> Path | None:
    for folder in (root, *(root / name for name in FOLDERS)):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return folder
    return None


def _download(root: Path) -> None:
    from torchvision.datasets import Imagenette

    try:
        root.mkdir(parents=True, exist_ok=True)
        Imagenette(root, size="full", download=True)
    except (OSError, RuntimeError) as error:
        raise BnrecalError(f"cannot download Imagenette ({error}): unpack {_URL} into {root}") from error


def _split(folder: Path, split: Split, numbers: dict[str, int]) -> Listing:
    """ImageNet's own split, known by the file names: see `from_config`."""
    index = list_images(folder)
    labels = _class_labels(index, numbers)
    validation = np.array([VALIDATION in index.name(i) for i in range(len(index))], dtype=bool)
    labels[(labels >= 0) & (validation != (split == "val"))] = OF_ANOTHER_SPLIT
    missing = [wnid for wnid, number in numbers.items() if not np.any(labels == number)]
    if missing:
        kind = f"named {VALIDATION}*" if split == "val" else f"besides {VALIDATION}*"
        raise BnrecalError(f"{folder} has no images {kind} of {', '.join(missing)}: not a whole Imagenette")
    return labelled(folder, index, labels, split=split, unlabelled="in no class folder of Imagenette")


def _class_labels(index: Index, numbers: dict[str, int]) -> NDArray[np.int64]:
    """int64 (files,): the label of each file of train/<wnid>/ and val/<wnid>/, -1 for any other."""
    by_folder = []
    for name in index.folders:
        parts = name.split("/")
        own = len(parts) == 2 and parts[0] in ("train", "val")
        by_folder.append(numbers.get(parts[1], -1) if own else -1)
    return np.array(by_folder, dtype=np.int64)[index.folder_of]
