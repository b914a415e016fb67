"""Weights that others publish: downloaded once into torch's cache, their hash checked at every use."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path
from bnrecal.models.weights import file_hash


@dataclass(frozen=True)
class Published:
    """A file of weights on the network.

    Attributes:
        url: where it comes from.
        file: its name in `torch.hub.get_dir()/checkpoints`.
        digest: how its hash begins, hexadecimal.
        hashed: "sha256" of the bytes, or "git-blob": the SHA-1 by which git names the content.
    """

    url: str
    file: str
    digest: str
    hashed: Literal["sha256", "git-blob"] = "sha256"

    @property
    def path(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


def fetch(published: Published) -> Path:
    """The file in torch's cache, downloaded if it is not there.

    Raises:
        BnrecalError: if it cannot be downloaded (saying which file to put where), or has another hash.
    """
    path = published.path
    if not path.is_file():
        with atomic_path(path) as temporary:
            try:
                _download(published.url, temporary)
            except OSError as error:
                raise BnrecalError(
                    f"cannot download {published.url} ({error}): put it at {path} or give model.checkpoint=PATH"
                ) from error
            if not _matches(temporary, published):
                raise BnrecalError(f"{published.url} is not the published file: its {published.hashed} differs")
    elif not _matches(path, published):
        raise BnrecalError(f"{path} is damaged or another file: delete it to download it again")
    return path


def _download(url: str, path: Path) -> None:
    import pooch  # here, because it imports a progress bar that a notebook without widgets is warned of

    pooch.HTTPDownloader(progressbar=True, timeout=30)(url, str(path), None)


def _matches(path: Path, published: Published) -> bool:
    digest = file_hash(path) if published.hashed == "sha256" else git_blob_hash(path)
    return digest.startswith(published.digest)


def git_blob_hash(path: Path) -> str:
    """The SHA-1 by which git names a file's content."""
    begun = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: begun).hexdigest()
