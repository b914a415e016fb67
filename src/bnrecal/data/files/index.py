"""The image files of a folder: listed once, then read from a cache until a folder of the tree changes.

Listing ImageNet's 1.3 million files takes minutes on a network disk; the cache holds their names as one block
of bytes (about 40 MB) and is checked against the modification time of every folder, some 1,000 calls of stat.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bnrecal.data.files.decode import is_image
from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path, cache_path, warn_once

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# Notes, lists and archives beside the images, which nobody takes for images.
NOTES = (".txt", ".csv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".mat", ".db", ".ini")
SIDE_FILES = (*NOTES, ".tar", ".tgz", ".gz", ".zip", ".parquet")
BROKEN_LINK = "broken links"
UNREADABLE = "unreadable"
NO_IMAGE = "no images by name or content"
_PASSING = {BROKEN_LINK, UNREADABLE}  # may change without any folder of the tree changing
_FORMAT = 2
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
        left_out: relative paths of the files that are not listed, by reason; hidden files and SIDE_FILES are no part.
    """

    folders: list[str]
    mtimes: NDArray[np.int64]
    names: bytes
    ends: NDArray[np.int64]
    folder_of: NDArray[np.int32]
    left_out: dict[str, list[str]] = field(default_factory=dict)

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


def build_index(
    pairs: Iterable[tuple[str, Sequence[str]]], mtimes: Sequence[int], left_out: dict[str, list[str]] | None = None
) -> Index:
    """An index of (folder, file names in it) pairs, the folders in sorted order."""
    folders, encoded, folder_of = [], [], []
    for position, (folder, files) in enumerate(pairs):
        folders.append(folder)
        prefix = os.fsencode(folder + "/") if folder else b""
        encoded += [prefix + os.fsencode(file) for file in sorted(files)]
        folder_of += [position] * len(files)
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    names = b"".join(encoded)
    return Index(folders, np.array(mtimes, np.int64), names, ends, np.array(folder_of, np.int32), left_out or {})


def list_images(root: Path) -> Index:
    """The image files below `root`, from the cache if no folder has changed since, else listed now.

    A file counts as an image by its ending, or by its content where the ending is not one of EXTENSIONS. Hidden files
    and folders are passed over.
    """
    root = root.resolve()
    cached = _cache_file(root)
    index = load_index(cached) if cached.exists() else None
    if index is not None and _unchanged(root, index):
        return index
    log.info("listing the images in %s (once, until they change)", root)
    started = time.time_ns()
    index = _walk(root)
    if len(index) and not index.left_out.keys() & _PASSING and int(index.mtimes.max()) < started - _CLOCK_SLACK_NS:
        try:
            save_index(index, cached)
        except BnrecalError as error:
            warn_once(f"{error}: the folder is listed again next time")
    return index


def _cache_file(root: Path) -> Path:
    return cache_path("index") / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.npz"


def save_index(index: Index, path: Path) -> None:
    """Writes the index whole or not at all: several runs may list the same folder at once."""
    folders = np.frombuffer(os.fsencode("\0".join(index.folders)), np.uint8)
    names = np.frombuffer(index.names, np.uint8)
    left_out = np.frombuffer(json.dumps(index.left_out).encode(), np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            format=np.int64(_FORMAT),
            folders=folders,
            mtimes=index.mtimes,
            names=names,
            ends=index.ends,
            folder_of=index.folder_of,
            left_out=left_out,
        )


def load_index(path: Path) -> Index | None:
    """The index in the file; None where it is damaged or of another format, to be listed again."""
    try:
        with path.open("rb") as file, np.load(file) as data:
            if int(data["format"]) != _FORMAT:
                return None
            folders = os.fsdecode(data["folders"].tobytes()).split("\0")
            left_out = json.loads(data["left_out"].tobytes())
            return Index(folders, data["mtimes"], data["names"].tobytes(), data["ends"], data["folder_of"], left_out)
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
    left_out: dict[str, list[str]] = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        prefix = f"{folder}/" if folder else ""
        try:
            mtime = os.stat(root / folder).st_mtime_ns
            with os.scandir(root / folder) as entries:
                below, files, others = _sorted_out(entries)
        except OSError as error:
            raise BnrecalError(f"cannot list {root / folder}: {error.strerror}") from error
        found[folder] = (mtime, files)
        pending += [prefix + name for name in below]
        for name, reason in others:
            left_out.setdefault(reason, []).append(prefix + name)
    folders = sorted(found)
    pairs = [(name, found[name][1]) for name in folders]
    mtimes = [found[name][0] for name in folders]
    return build_index(pairs, mtimes, {reason: sorted(names) for reason, names in sorted(left_out.items())})


def _sorted_out(entries: Iterable["os.DirEntry[str]"]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Folders, images, and (name, reason) of the files that are left out."""
    below: list[str] = []
    files: list[str] = []
    others: list[tuple[str, str]] = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            below.append(entry.name)
            continue
        reason = _why_not(entry)
        if reason is None:
            files.append(entry.name)
        elif reason:
            others.append((entry.name, reason))
    return below, files, others


def _why_not(entry: "os.DirEntry[str]") -> str | None:
    """The reason to leave a file out, empty where nobody misses it; None for an image."""
    ending = os.path.splitext(entry.name)[1].lower()
    if ending in SIDE_FILES:
        return ""
    if not entry.is_file():
        return BROKEN_LINK if entry.is_symlink() else NO_IMAGE
    if ending in EXTENSIONS:
        return None
    try:
        return None if is_image(entry.path) else NO_IMAGE
    except OSError:
        return UNREADABLE
