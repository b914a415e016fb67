"""Operating points of Figure 1, as they lie in the JSON files of `cells/`, and their file `figure1.csv`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bnrecal.reports.common.tables import PrintedTable, printed, write_table
from bnrecal.search.records import CurveRecord


class FigurePoint(CurveRecord):
    """An operating point and the network that it belongs to.

    Attributes:
        pruned: percent of the network's weights that were pruned.
        policy: as `smt.policy` names it.
        slow_threads: of the layers that are slowed.
        seconds: for all points of the network together, on `device`.
    """

    panel: str
    label: str
    pruned: int
    policy: str
    slow_threads: int
    seconds: float
    device: str


def points_table(points: Sequence[FigurePoint]) -> PrintedTable:
    """`figure1.csv`: one row a point, all that is known of it but how the figure draws it."""
    return printed("figure1.csv", pd.DataFrame(points).drop(columns="pruned"), ".6g")


def write_points(points: Sequence[FigurePoint], out: Path) -> None:
    """Write `figure1.csv` into `out`."""
    write_table(points_table(points), out)


def by_panel(points: Sequence[FigurePoint]) -> dict[str, list[FigurePoint]]:
    """The points of each panel, by its letter, in the order of the letters."""
    panels: dict[str, list[FigurePoint]] = {}
    for point in sorted(points, key=lambda point: point["panel"]):
        panels.setdefault(point["panel"], []).append(point)
    return panels


def by_network(points: Sequence[FigurePoint]) -> dict[str, list[FigurePoint]]:
    """The points of each network by its label, in the order in which they come."""
    networks: dict[str, list[FigurePoint]] = {}
    for point in points:
        networks.setdefault(point["label"], []).append(point)
    return networks


def panel_title(points: Sequence[FigurePoint]) -> str:
    """The title of a panel, named after its dense network: (a) ResNet-18: 4T with some 2T."""
    first = min(points, key=lambda point: point["pruned"])
    return f"({first['panel']}) {first['label']}: 4T with some {first['slow_threads']}T"
