"""Progress bars, and HTML that notebooks show in the place of an object, every text of it escaped."""

import html
from collections.abc import Iterable, Mapping
from typing import TypeVar

import pandas as pd
from tqdm import tqdm

T = TypeVar("T")

_SHARES = {
    "weight_sparsity": "zero weights",
    "activation_sparsity": "zero activations",
    "collisions": "steps that collide",
    "relative_mse": "relative error",
}


def progress(items: Iterable[T], what: str, unit: str) -> "tqdm[T]":
    """Return a progress bar over items that shows after a second, on a terminal alone, and goes when it is done."""
    return tqdm(items, desc=what, unit=unit, leave=False, delay=1, disable=None)


def facts_table(facts: Mapping[str, object]) -> str:
    """Return an HTML table of two columns: names and what they are."""
    frame = pd.Series(dict(facts), dtype=object).to_frame()
    return str(frame.to_html(header=False, border=0, escape=True))


def preformatted(text: str) -> str:
    """Return text for people as HTML, line by line as it is."""
    return f"<pre>{html.escape(text)}</pre>"


class LayerTable(pd.DataFrame):  # type: ignore[misc]
    """A data frame with a row per convolution. A notebook shows the columns that say most, in percent.

    Parts of it are plain data frames, which a notebook shows whole.
    """

    def _repr_html_(self) -> str:
        """Return the table in short; a dash stands where nothing was counted."""
        shown = pd.DataFrame(
            {"layer": self["name"], "threads": self["threads"], "range": self["range"].map("{:.3g}".format)}
        )
        for column, heading in _SHARES.items():
            if column in self:
                shown[heading] = self[column].map(_percent)
        return str(shown.to_html(index=False, border=0, escape=True))


def _percent(share: float) -> str:
    return "-" if pd.isna(share) else f"{100 * share:.2f} %"
