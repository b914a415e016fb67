"""Lists that label the files of a flat val/: val.txt, Kaggle's table, the devkit's ground truth.

A list is taken only for what it must be: running numbers and classes counted from 1 look like labels and are none.
"""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once

VAL_TXT = "val.txt"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"
_VAL_NUMBER = re.compile(r"_val_(\d{8})(?:\.|$)")
_ENOUGH = 10  # lines from which a row of running numbers cannot be labels by accident


@cache
def wnids() -> tuple[str, ...]:
    """The 1,000 synset ids in class order (sorted, which is the order of every published network)."""
    return tuple(files("bnrecal.data.files").joinpath("imagenet_wnids.txt").read_text().split())


def labels_from(path: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """The label of each file name, int64 (names,); -1 for a file that the list does not have.

    Args:
        path: a list named VAL_TXT, KAGGLE or GROUND_TRUTH (with the devkit's meta.mat beside it).

    Raises:
        BnrecalError: naming the line, if the list is not what its name says; if two files have one stem, or a
            val.txt lists files that are not there.
    """
    stems = [_stem(name) for name in names]
    twice, count = Counter(stems).most_common(1)[0] if stems else ("", 0)
    if count > 1:
        raise BnrecalError(f"two files are named {twice} and {path} has one label for them: take one of them away")
    if path.name == VAL_TXT:
        by_stem = _val_txt(path)
        missing = sorted(by_stem.keys() - set(stems))
        if missing:
            raise BnrecalError(
                f"{path} lists {len(by_stem):,} files, and {len(missing):,} of them are no images in val/ "
                f"({missing[0]}): put them there, or take their lines out of the list"
            )
    elif path.name == KAGGLE:
        by_stem = _kaggle(path)
        missing = sorted(by_stem.keys() - set(stems))
        if missing:
            warn_once(f"val: {len(missing):,} of {len(by_stem):,} files in {path} are not there ({missing[0]})")
    else:
        by_stem = _devkit(path, stems)
    return np.array([by_stem.get(stem, -1) for stem in stems], np.int64)


def _stem(name: str) -> str:
    base = name.rsplit("/", 1)[-1]
    return base.rsplit(".", 1)[0]


def _lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, or in UTF-16 with its byte-order mark, as Windows writes them."""
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BnrecalError(f"{path} is no text in UTF-8 ({error.reason}): save it as UTF-8") from error
    if "\0" in text:
        raise BnrecalError(f"{path} is no text in UTF-8 (it has zero bytes): save it as UTF-8")
    return text.splitlines()


def _val_txt(path: Path) -> dict[str, int]:
    """From lines of "file class"."""
    labels: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].isascii() or not parts[1].isdecimal():
            raise BnrecalError(f"{path} line {number}: {line!r} is not 'file class' with a class of 0..999")
        stem = _stem(parts[0])
        label = int(parts[1])
        if labels.setdefault(stem, label) != label:
            raise BnrecalError(f"{path} line {number}: {parts[0]} is listed twice, as class {labels[stem]} and {label}")
    _check_classes(path, labels)
    return labels


def _check_classes(path: Path, labels: dict[str, int]) -> None:
    """Raise BnrecalError where the numbers of a list cannot be classes 0..999."""
    if not labels:
        raise BnrecalError(f"{path} has no lines of 'file class'")
    classes = len(wnids())
    values = list(labels.values())
    low = min(values)
    high = max(values)
    in_files = [_number(stem) for stem in labels]
    row = list(range(low, low + len(values)))
    highest = next(stem for stem, label in labels.items() if label == high)
    numbered = values == in_files or (values == row and low <= 1 and row != list(range(classes)))
    faults = [
        (
            numbered and len(values) >= _ENOUGH,
            f"numbers its files ({low} to {high}) instead of giving their classes, as Kaggle's ImageSets/ does: take "
            f"another list ({KAGGLE} has the classes)",
        ),
        (low == 1 and high == classes, f"counts classes from 1 ({low} to {high}): take 1 from each of them"),
        (high >= classes, f"says {highest!r} is of class {high}: classes are 0..{classes - 1}"),
    ]
    for found, fault in faults:
        if found:
            raise BnrecalError(f"{path} {fault}")


def _number(stem: str) -> int:
    """The number of a validation image, from its name; -1 for other names."""
    match = _VAL_NUMBER.search(stem)
    return int(match[1]) if match else -1


def _kaggle(path: Path) -> dict[str, int]:
    """From rows of "ImageId,PredictionString", where the prediction string opens with a synset id."""
    numbers = {wnid: number for number, wnid in enumerate(wnids())}
    labels = {}
    for number, row in enumerate(csv.reader(_lines(path)), start=1):
        if not row or (number == 1 and row[0] == "ImageId"):
            continue
        wnid = row[1].split()[0] if len(row) > 1 and row[1].strip() else ""
        if wnid not in numbers:
            raise BnrecalError(f"{path} line {number}: {','.join(row)!r} is not 'ImageId,wnid ...'")
        labels[row[0]] = numbers[wnid]
    return labels


def _devkit(path: Path, stems: Sequence[str]) -> dict[str, int]:
    """Line n of the ground truth is the ILSVRC id (1..1000, in an order of its own) of validation image n."""
    meta = path.parent / "meta.mat"
    if not meta.is_file():
        raise BnrecalError(f"{path} counts classes in an order of its own: put the devkit's meta.mat beside it")
    class_of_id = _devkit_classes(meta)
    truth = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip().isdecimal() or int(line) not in class_of_id:
            raise BnrecalError(f"{path} line {number}: {line!r} is no ILSVRC id of 1..{len(class_of_id)}")
        truth.append(class_of_id[int(line)])
    numbered = {stem: _number(stem) for stem in stems}
    return {stem: truth[number - 1] for stem, number in numbered.items() if 1 <= number <= len(truth)}


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
