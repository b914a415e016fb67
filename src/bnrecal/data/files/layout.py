"""Folders that are not laid out as a data set: what lies there instead, and what would do."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from bnrecal.data.base import Split
from bnrecal.errors import BnrecalError

_OTHER_NAMES: dict[Split, Sequence[str]] = {
    "train": ("training", "Train", "TRAIN"),
    "val": ("validation", "valid", "Val", "VAL", "test"),
}
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
_PACKED = {  # what files that are no images yet look like, and what makes images of them
    "*.tar": "unpack such archives (ImageNet's n01440764.tar into a folder n01440764)",
    "*.tgz": "unpack it",
    "*.tar.gz": "unpack it",
    "*.zip": "unpack it",
    "*.parquet": "set data=huggingface, which reads such tables",
    "*.arrow": "write the images out as files, one folder a class; tables are not read",
    "*.tfrecord*": "write the images out as files, one folder a class; records are not read",
}


def require_split(root: Path, split: Split, needed: str) -> Path:
    """The folder of a split.

    Args:
        needed: the layout that would do, in words.
    """
    folder = root / split
    if folder.is_dir():
        return folder
    other = next((name for name in _OTHER_NAMES[split] if (root / name).is_dir()), None)
    if other is not None:
        instead = f"it holds {other}/ instead: rename it to {split} or link to it (ln -s {other} {root}/{split})"
    elif root.name in ("train", "val"):
        instead = f"set data.root={root.parent}, which holds {root.name}/"
    else:
        instead = advice(root) or needed
    raise BnrecalError(f"data.root={root} has no folder {split}/: {instead}")


def advice(folder: Path) -> str:
    """Return what would do for a folder without its images; empty where nothing known lies in it."""
    for below in _KAGGLE:
        if (folder / below).is_dir():
            return f"set data.root={folder / below}, as Kaggle packs ImageNet"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    for name in names:
        if (folder / name / "train").is_dir() or (folder / name / "val").is_dir():
            return f"set data.root={folder / name}, which holds train/ or val/"
    if folder.name in names and (folder / folder.name).is_dir():
        return f"move the content of {folder / folder.name} one folder up"
    for pattern, what_to_do in _PACKED.items():
        packed = [name for name in names if fnmatch(name, pattern)]
        packed += sorted(f"data/{file.name}" for file in (folder / "data").glob(pattern))  # as on Hugging Face's hub
        if packed:
            return f"it holds {len(packed):,} {pattern} ({packed[0]}): {what_to_do}"
    return ""
