"""Tables as they are printed: every number turned into text once, for the CSV file and for the page that shows it."""

from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.files import atomic_path
from bnrecal.options import POLICIES


@dataclass(frozen=True)
class PrintedTable:
    """A table as its CSV file holds it.

    Attributes:
        text: every value as text; empty where there is none.
    """

    name: str
    text: pd.DataFrame

    @property
    def header(self) -> list[str]:
        return [str(column) for column in self.text.columns]

    @property
    def rows(self) -> list[list[str]]:
        rows: list[list[str]] = self.text.to_numpy().tolist()
        return rows

    @property
    def csv(self) -> str:
        """Content of the file."""
        content: str = self.text.to_csv(index=False, lineterminator="\n")
        return content

    @property
    def data(self) -> str:
        """The file as an address, to be saved out of a page."""
        return f"data:text/csv;base64,{b64encode(self.csv.encode()).decode()}"


def printed(name: str, table: pd.DataFrame, digits: str) -> PrintedTable:
    """A table with its numbers turned into text.

    Args:
        name: of the CSV file.
        digits: format of floating-point numbers.
    """

    def as_text(value: object) -> str:
        if pd.isna(value):
            return ""
        return f"{value:{digits}}" if isinstance(value, float) else str(value)

    return PrintedTable(name, table.map(as_text))


def write_table(table: PrintedTable, out: Path) -> None:
    """Write a table into the folder `out`, whole or not at all."""
    with atomic_path(out / table.name) as path:
        path.write_text(table.csv)


def flat(settings: Mapping[str, Any], whole: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys; the mappings named in `whole` stay as they are."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in whole:
            found |= flat(value, whole, f"{name}.")
        else:
            found[name] = value
    return found


def custom_policies(policies: Iterable[str]) -> str:
    """Return the custom policies among these for a title, as in ", policy mine:RULE"; empty without one."""
    custom = [policy for policy in dict.fromkeys(policies) if policy not in POLICIES]
    return f", policy {', '.join(custom)}" if custom else ""
