"""Data sets as Hugging Face has them: Parquet files, WebDataset shards, saved data sets, names on the hub."""

import hashlib
import logging
import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from bnrecal.config import DataConfig
from bnrecal.data.base import ImageSource, Split
from bnrecal.data.files.decode import decode, decode_bytes
from bnrecal.data.files.folder import FileDataset, log_count, some
from bnrecal.data.files.label_lists import wnids
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError, first_line
from bnrecal.files import warn_once

_SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train", "training"), "val": ("validation", "val", "valid")}
_BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
_ALIKE = 0.9  # share of classes whose names are torchvision's, from which a set's classes are ImageNet's in their order

log = logging.getLogger(__name__)


def from_config(config: DataConfig) -> "HuggingFaceSource":
    """`huggingface` as the settings ask for it."""
    if config.root is None:
        raise BnrecalError(
            "data=huggingface needs data.root=PATH of Parquet files, or the name of a data set on the hub"
        )
    return HuggingFaceSource(config.root, skip_corrupt=config.skip_corrupt)


class HuggingFaceSource(ImageSource):
    """Training and validation rows of a data set with one image and one label column.

    Args:
        root: a folder of files train* and validation* (or in folders of such names), a folder of `save_to_disk`, or a
            name on the hub, owner/name.
        skip_corrupt: give an unreadable image as black with the label -1, instead of raising.

    Raises:
        BnrecalError: if it cannot be had, a split is missing, it is not clear which columns count, or labels are
            missing, secret (-1) or no classes of the set.
    """

    def __init__(self, root: str, *, skip_corrupt: bool = False) -> None:
        self.name = "huggingface"
        self.root = root
        self.skip_corrupt = skip_corrupt
        splits = _load(root)
        self._rows: dict[Split, Rows] = {}
        for split, own_names in _SPLITS.items():
            found = next((splits[name] for name in own_names if name in splits), None)
            if found is None:
                raise BnrecalError(f"{root} has no split {own_names[0]}, only {', '.join(map(str, splits)) or 'none'}")
            self._rows[split] = Rows(root, split, found)
        names = self._rows["train"].class_names
        if names != self._rows["val"].class_names:
            raise BnrecalError(f"{root}: the classes of train and validation have other names or another order")
        classes = len(names) if names else 1 + max(int(rows.labels.max()) for rows in self._rows.values())
        self.num_classes = classes
        for rows in self._rows.values():
            rows.check_labels(classes)
        self.imagenet_classes = _is_imagenet(root, names)

    def size(self, split: Split) -> int:
        return len(self._rows[split].kept)

    def dataset(
        self, split: Split, indices: Sequence[int], preprocessing: Preprocessing, *, augment: bool = False
    ) -> Dataset[tuple[Tensor, int]]:
        rows = self._rows[split]
        numbers = rows.kept[list(indices)]
        labels = rows.labels[numbers].tolist()
        picture = partial(_row_picture, rows, numbers.tolist())
        return FileDataset(picture, labels, preprocessing, augment, self.skip_corrupt)

    def fingerprint(self, split: Split, indices: Sequence[int]) -> str:
        rows = self._rows[split]
        digest = hashlib.sha256(f"{self.name}|{split}|{len(rows.labels)}|".encode())
        for number in rows.kept[list(indices)].tolist():
            digest.update(f"{number}|{rows.labels[number]}\n".encode())
        return digest.hexdigest()[:16]

    def version(self, split: Split, indices: Sequence[int]) -> str:
        """Rows, labels, and the hash of the data set, which changes with its files."""
        own = f"{self.fingerprint(split, indices)}|{self._rows[split].hash}"
        return hashlib.sha256(own.encode()).hexdigest()[:16]


class Rows:
    """The rows of one split.

    Attributes:
        class_names: in class order; empty where labels are plain numbers.
        labels: int64 (rows,).
        kept: int64, the rows that have an image.
        hash: of the data set.
    """

    def __init__(self, root: str, split: Split, dataset: Any) -> None:
        self.title = f"{root} ({split})"
        self.split = split
        self.hash: str = dataset._fingerprint
        image, label = _columns(self.title, dataset.features)
        self.class_names: list[str] = list(getattr(dataset.features[label], "names", None) or [])
        from datasets import Image as Encoded

        self.images = dataset.select_columns([image]).cast_column(image, Encoded(decode=False))
        self.image = image
        self.labels = _labels(self.title, label, dataset.data.column(label))
        self.kept = np.flatnonzero(_has_image(self.images.data.column(image)))
        missing = np.setdiff1d(np.arange(len(self.labels)), self.kept)
        left_out = {"without an image": [f"row {number}" for number in missing.tolist()]} if len(missing) else {}
        if not len(self.kept):
            raise BnrecalError(f"{self.title} has no images: check data.root")
        log_count(split, root, len(self.kept), left_out, "rows")

    def check_labels(self, classes: int) -> None:
        """Raise BnrecalError at a label that is no class, and warn of classes without images."""
        labels = self.labels[self.kept]
        if int(labels.min()) < 0:
            row = int(self.kept[labels.argmin()])
            raise BnrecalError(
                f"{self.title} row {row} has the label {labels.min()}, which is no class: the labels of test "
                "splits are secret, give a split with labels"
            )
        if int(labels.max()) >= classes:
            row = int(self.kept[labels.argmax()])
            raise BnrecalError(f"{self.title} row {row} has the label {labels.max()}: classes are 0..{classes - 1}")
        missing = np.setdiff1d(np.arange(classes), labels)
        if len(missing):
            names = [self.class_names[i] if self.class_names else str(i) for i in missing.tolist()]
            warn_once(f"{self.split}: {len(missing):,} of {classes:,} classes have no images: {some(names)}")

    def picture(self, number: int) -> Image.Image:
        """Return the image of a row, RGB."""
        entry = self.images[number][self.image]
        if entry["bytes"] is None:
            return decode(entry["path"])
        return decode_bytes(entry["bytes"], f"{self.title} row {number}")


def _row_picture(rows: Rows, numbers: Sequence[int], i: int) -> Image.Image:
    return rows.picture(numbers[i])


def _load(root: str) -> Any:
    """Return a mapping of split names to data sets."""
    try:
        import datasets
    except ImportError as error:
        raise BnrecalError("data=huggingface needs the package datasets: pip install 'bnrecal[huggingface]'") from error
    folder = Path(root).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        if folder.is_dir():
            builder, files = _files(folder)
            # one by one: together, all would get the class names of the first
            return {
                split: datasets.load_dataset(builder, data_files={split: paths}, split=split)
                for split, paths in files.items()
            }
        if folder.is_absolute() or not re.fullmatch(r"[\w.-]+/[\w.-]+", root):
            raise BnrecalError(f"data.root={root} is no folder, and no name on the hub (owner/name)")
        return datasets.load_dataset(root)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise BnrecalError(f"data.root={root} cannot be read as a data set: {first_line(error)[:200]}") from error


def _files(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """Return the name of the builder and its files by split."""
    for ending, builder in _BUILDERS.items():
        paths = sorted(path for path in folder.rglob(f"*{ending}") if not path.name.startswith("."))
        if not paths:
            continue
        by_split: dict[str, list[str]] = {}
        others = []
        for path in paths:
            split = _split_of(path.relative_to(folder))
            if split is None:
                others.append(path.name)
            else:
                by_split.setdefault(_SPLITS[split][0], []).append(str(path))
        if others:
            warn_once(
                f"{folder}: {len(others):,} of {len(paths):,} files are of neither train nor validation by their "
                f"names, and left out ({some(others)})"
            )
        if by_split:
            return builder, by_split
    raise BnrecalError(
        f"data.root={folder} has no Parquet files (nor tar shards) named train* and validation*, nor folders "
        "of such names"
    )


def _split_of(path: Path) -> Split | None:
    """Return the split that a file belongs to: its own name decides, then its folders from the nearest."""
    for part in reversed(path.parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, names in _SPLITS.items():
            if any(name in words for name in names):
                return split
        if "test" in words:
            return None
    return None


def _columns(title: str, features: Any) -> tuple[str, str]:
    """Return the names of the image and the label column."""
    from datasets import ClassLabel, Value
    from datasets import Image as Encoded

    images = [name for name, feature in features.items() if isinstance(feature, Encoded) or _holds_bytes(feature)]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if not labels:
        numbers = [n for n, f in features.items() if isinstance(f, Value) and "int" in f.dtype]
        labels = [name for name in numbers if name in ("label", "labels", "cls")] or numbers
    for what, found in (("image", images), ("label", labels)):
        if len(found) != 1:
            said = f"several {what} columns ({', '.join(found)})" if found else f"no {what} column"
            raise BnrecalError(
                f"{title} has {said} among {', '.join(features)}: one of images and one of class numbers are needed"
            )
    return images[0], labels[0]


def _holds_bytes(feature: Any) -> bool:
    """True for an image as Parquet holds it where nobody noted that it is one."""
    return isinstance(feature, dict) and feature.keys() == {"bytes", "path"}


def _labels(title: str, name: str, column: Any) -> NDArray[np.int64]:
    if column.null_count:
        raise BnrecalError(f"{title}: {column.null_count:,} rows have no {name}: give them one, or take them out")
    return cast(NDArray[np.int64], column.to_numpy().astype(np.int64))


def _has_image(column: Any) -> NDArray[np.bool_]:
    """Return which rows hold bytes or a path, bool (rows,), without reading them."""
    import pyarrow.compute as pc

    inside = [pc.is_valid(pc.struct_field(column, field)) for field in ("bytes", "path")]
    present = pc.and_(pc.is_valid(column), pc.or_(*inside))
    return cast(NDArray[np.bool_], present.to_numpy())


def _is_imagenet(root: str, names: Sequence[str]) -> bool:
    """Return whether the classes are ImageNet's 1,000 in the order of published networks."""
    if len(names) != len(wnids()):
        return False
    if set(names) == set(wnids()):
        if list(names) != list(wnids()):
            first = next(i for i, name in enumerate(names) if name != wnids()[i])
            raise BnrecalError(
                f"{root}: class {first} is {names[first]}, where published networks have {wnids()[first]}: number the "
                "classes by sorted synset ids"
            )
        return True
    alike = sum(name.split(",")[0].strip() == usual for name, usual in zip(names, _categories(), strict=True))
    if alike >= _ALIKE * len(names):
        return True
    warn_once(f"{root}: {alike:,} of the 1,000 class names are ImageNet's in its order: taken as classes of its own")
    return False


@cache
def _categories() -> list[str]:
    """ImageNet's class names in class order, as torchvision has them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
