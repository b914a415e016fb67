"""Settings of all figures: legible in print and without colour, no display needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bnrecal.files import atomic_path

SETTINGS: Any = {  # any: older matplotlib stubs take str keys, newer ones each key by name
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "bnrecal",  # else most identifiers in an SVG are new every time
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Look:
    """A curve, distinct from the others by marker, fill and line style as well as by colour (Okabe and Ito's set)."""

    color: str
    marker: str
    line: str
    filled: bool = True

    @property
    def face(self) -> str:
        return self.color if self.filled else "white"


@contextmanager
def drawing() -> Iterator[None]:
    """The settings, for the length of a block."""
    with matplotlib.rc_context(SETTINGS):
        yield


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write `stem.png` (200 dots an inch) and `stem.svg`."""
    paths = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        target = folder / f"{stem}.{suffix}"
        with atomic_path(target) as path:
            figure.savefig(path, dpi=200, metadata=metadata)
        paths.append(target)
    return paths
