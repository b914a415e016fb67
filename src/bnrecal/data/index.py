"""Which image files a folder holds: listed once, then read from a cache until a folder of the tree changes.

Listing ImageNet's 1.3 million files takes minutes on a network disk; the cache holds their names as one block
of bytes (about 40 MB) and is checked against the modification time of every folder, some 1,000 calls of stat.
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path, cache_path, warn_once

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_FORMAT = 1
_CLOCK_SLACK_NS = 2_000_000_000  # a folder this fresh may change again without a new modification time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """The image files below one folder, sorted by name.

    Attributes:
        folders: every folder below the root, relative, in sorted order, and first the root itself as "".
        mtimes: int64 (folders,), their modification times in nanoseconds.
        names: the relative paths of all files, UTF-8, one after the other.
        ends: int64 (files,), where each name ends.
        folder_of: int32 (files,), the position in `folders` of the folder that holds it.
    """

    folders: list[str]
    mtimes: NDArray[np.int64]
    names: bytes
    ends: NDArray[np.int64]
    folder_of: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, i: int) -> str:
        """The path of file i relative to the root, with forward slashes."""
        start = int(self.ends[i - 1]) if i else 0
        return os.fsdecode(self.names[start : int(self.ends[i])])

    def classes(self) -> list[str]:
        """The folders directly below the root, sorted."""
        return [folder for folder in self.folders if folder and "/" not in folder]

    def class_of(self, numbers: dict[str, int]) -> NDArray[np.int64]:
        """int64 (files,): the number of each file's class folder, -1 for files without or of another."""
        by_folder = [numbers.get(folder.split("/", 1)[0], -1) if folder else -1 for folder in self.folders]
        return np.array(by_folder, dtype=np.int64)[self.folder_of]


def build_index(pairs: Iterable[tuple[str, Sequence[str]]], mtimes: Sequence[int]) -> Index:
    """An index of (folder, file names in it) pairs, the folders in sorted order."""
    folders, encoded, folder_of = [], [], []
    for position, (folder, files) in enumerate(pairs):
        folders.append(folder)
        prefix = os.fsencode(folder + "/") if folder else b""
        encoded += [prefix + os.fsencode(file) for file in sorted(files)]
        folder_of += [position] * len(files)
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return Index(folders, np.array(mtimes, np.int64), b"".join(encoded), ends, np.array(folder_of, np.int32))


def list_images(root: Path) -> Index:
    """The image files below `root`, from the cache if no folder has changed since, else listed now.

    Hidden files, and files that are no images by their ending, are left out.

    Raises:
        BnrecalError: if a folder cannot be read.
    """
    root = root.resolve()
    cached = _cache_file(root)
    index = load_index(cached) if cached.exists() else None
    if index is not None and _unchanged(root, index):
        return index
    log.info("listing the images in %s (once, until they change)", root)
    started = time.time_ns()
    index = _walk(root)
    if len(index) and int(index.mtimes.max()) < started - _CLOCK_SLACK_NS:
        try:
            save_index(index, cached)
        except BnrecalError as error:
            warn_once(f"{error}: the folder is listed again next time")
    return index


def _cache_file(root: Path) -> Path:
    return cache_path("index") / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.npz"


def save_index(index: Index, path: Path) -> None:
    """Writes the index whole or not at all: several runs may list the same folder at once."""
    folders = np.frombuffer(os.fsencode("\n".join(index.folders)), np.uint8)
    names = np.frombuffer(index.names, np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            format=np.int64(_FORMAT),
            folders=folders,
            mtimes=index.mtimes,
            names=names,
            ends=index.ends,
            folder_of=index.folder_of,
        )


def load_index(path: Path) -> Index | None:
    """The index in the file; None where it is damaged or of another format, to be listed again."""
    try:
        with path.open("rb") as file, np.load(file) as data:
            if int(data["format"]) != _FORMAT:
                return None
            folders = os.fsdecode(data["folders"].tobytes()).split("\n")
            return Index(folders, data["mtimes"], data["names"].tobytes(), data["ends"], data["folder_of"])
    except (OSError, KeyError, ValueError, BadZipFile, EOFError) as error:
        log.warning("%s is damaged (%s): listing the images again", path, type(error).__name__)
        return None


def _unchanged(root: Path, index: Index) -> bool:
    try:
        return all(
            os.stat(root / folder).st_mtime_ns == mtime
            for folder, mtime in zip(index.folders, index.mtimes.tolist(), strict=True)
        )
    except OSError:
        return False


def _walk(root: Path) -> Index:
    found: dict[str, tuple[int, list[str]]] = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            mtime = os.stat(root / folder).st_mtime_ns
            with os.scandir(root / folder) as entries:
                below, files = _sorted_out(entries)
        except OSError as error:
            raise BnrecalError(f"cannot list {root / folder}: {error.strerror}") from error
        found[folder] = (mtime, files)
        pending += [f"{folder}/{name}" if folder else name for name in below]
    folders = sorted(found)
    return build_index([(name, found[name][1]) for name in folders], [found[name][0] for name in folders])


def _sorted_out(entries: Iterable["os.DirEntry[str]"]) -> tuple[list[str], list[str]]:
    below, files = [], []
    for entry in entries:
        if entry.name.startswith(".") or "\n" in entry.name:
            continue
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            files.append(entry.name)
        elif entry.is_dir():
            below.append(entry.name)
    return below, files
