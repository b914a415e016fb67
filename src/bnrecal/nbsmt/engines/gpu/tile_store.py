"""Tile sizes that were found fastest, kept on disk for later processes; of several, one times and the others read."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from bnrecal.errors import BnrecalError
from bnrecal.files import atomic_path, cache_path, warn_once

# Seconds that a process waits for another one to time the tiles of one kind of layer: it takes a few. The lock of a
# process that dies is free at once; waiting longer than this, each times for itself.
PATIENCE = 60.0


class Tile(NamedTuple):
    """Rows, filters and channels of a GEMM's tile, the warps that compute it, and stages of its load pipeline."""

    rows: int
    filters: int
    channels: int
    warps: int
    stages: int


class TileStore:
    """The tiles chosen for one model of GPU by one version of the kernels and of Triton.

    Attributes:
        file: JSON, the tile of every kind of layer that was timed.
        chosen: the same in memory.
    """

    def __init__(self, gpu: str, versions: str) -> None:
        slug = re.sub(r"[^0-9A-Za-z]+", "-", gpu)
        self.file = cache_path("gpu-tiles", f"{slug}-{versions}.json")
        self.chosen: dict[str, Tile] = {}
        self._read()

    def choose(self, kind: str, tiles: Sequence[Tile], fastest: Callable[[], Tile | None]) -> Tile:
        """Return the tile kept for this kind of layer; where none of `tiles` is, the one of `fastest`, and keep it.

        Args:
            fastest: times the tiles; None where it could not, and nothing is kept then.
        """
        if self.chosen.get(kind) not in tiles:
            with _alone(self.file.with_suffix(".lock")):
                self._read()
                if self.chosen.get(kind) not in tiles:
                    found = fastest()
                    if found is None:
                        return tiles[0]
                    self.chosen[kind] = found
                    self._write()
        return self.chosen[kind]

    def _read(self) -> None:
        """Take what other processes have written; a file that is not there, or not ours, says nothing."""
        try:
            found = json.loads(self.file.read_text())
            tiles = {str(kind): Tile(*map(int, tile)) for kind, tile in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return
        self.chosen.update(tiles)

    def _write(self) -> None:
        try:
            with atomic_path(self.file) as temporary:
                temporary.write_text(json.dumps(self.chosen, indent=1, sort_keys=True))
        except BnrecalError as error:
            warn_once(f"the tile sizes that were timed are not kept for later runs: {error}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """A block that one process at a time is in; after PATIENCE, or where files cannot be locked, several may be."""
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # a time-out too
            stack.enter_context(FileLock(lock, timeout=PATIENCE))
        yield
