"""Finished measurements, one JSON file each, so that nothing is measured twice."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnrecal.errors import BnrecalError
from bnrecal.experiment.identity import Identity, differences
from bnrecal.experiment.results import read_json
from bnrecal.files import atomic_path, warn_once

log = logging.getLogger("bnrecal")


@dataclass(frozen=True)
class Store:
    """A folder of entries, each with the identity of what it was made from.

    Attributes:
        best_effort: a cache: where it cannot be written, one warning is all.
    """

    folder: Path
    best_effort: bool = False

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def find(self, name: str, identity: Identity) -> dict[str, Any] | None:
        """Return an entry of this identity, or None; a line in the log says in what an entry of the name differs."""
        path = self.path(name)
        if not os.path.exists(path):  # Path.exists() raises where a folder may not be searched
            return None
        try:
            entry = read_json(path)
            changed = differences(entry.pop("identity"), identity)
        except (BnrecalError, KeyError):
            log.warning("%s is damaged or of an earlier version: made again", path)
            return None
        if changed:
            log.warning("%s is made again: %s changed", path, ", ".join(changed))
            return None
        return entry

    def keep(self, name: str, identity: Identity, content: dict[str, Any]) -> None:
        """Write an entry.

        Raises:
            BnrecalError: if it cannot be written, unless the store is a cache.
        """
        try:
            with atomic_path(self.path(name)) as temporary:
                temporary.write_text(json.dumps({**content, "identity": identity}, indent=1, default=str) + "\n")
        except BnrecalError as error:
            if not self.best_effort:
                raise
            warn_once(
                f"{self.folder} cannot be written ({error.__cause__}): what it would keep is made again next time"
            )

    def get(
        self, name: str, identity: Identity, make: Callable[[], dict[str, Any]], *, resume: bool = True
    ) -> dict[str, Any]:
        """Return what `find` does; without an entry, or without `resume`, what `make` returns, and keep it."""
        entry = self.find(name, identity) if resume else None
        if entry is None:
            entry = make()
            self.keep(name, identity, entry)
        return entry
