"""Points of top-1 lost against float32, ours and the paper's: what the charts of Table 1 show."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from bnrecal.reports.common.page import Axis
from bnrecal.reports.table1.columns import FLOAT32, Pair, threaded_pairs
from bnrecal.reports.table1.gains import Key
from bnrecal.reports.table1.paper import Levels, by_row, paper_table

FAR = 1.6  # a paper's value so many times beyond everything else lies outside the axis


@dataclass(frozen=True)
class Loss:
    """Percentage points below float32, without and with recalibration."""

    without: float
    recalibrated: float

    @property
    def values(self) -> tuple[float, float]:
        return self.without, self.recalibrated


@dataclass(frozen=True)
class LossChart:
    """Losses of all rows at one number of threads.

    Attributes:
        ours: by (source, model), in the order of the table.
        paper: of the rows that the paper has.
    """

    pair: Pair
    ours: dict[Key, Loss]
    paper: dict[Key, Loss]

    @property
    def axis(self) -> Axis:
        """An axis over all values, but for one of the paper's that would squeeze all others."""
        return loss_axis(_values(self.ours.values()), _values(self.paper.values()))


def loss_charts(wide: pd.DataFrame) -> list[LossChart]:
    """One chart a pair of columns, most threads first, of a table in the layout of `table1.csv`."""
    ours = by_row(wide)
    paper = {key: levels for key, levels in by_row(paper_table()).items() if key in ours}
    pairs = sorted(threaded_pairs(), key=lambda pair: -pair.threads)
    return [LossChart(pair, losses(ours, pair), losses(paper, pair)) for pair in pairs]


def losses(levels: Levels, pair: Pair) -> dict[Key, Loss]:
    """The losses of every row that has both columns of a pair."""
    without = pair.without.key
    recalibrated = pair.recalibrated.key
    found = {}
    for key, row in levels.items():
        if without in row and recalibrated in row:
            found[key] = Loss(row[FLOAT32.key] - row[without], row[FLOAT32.key] - row[recalibrated])
    return found


def mean_loss(found: Iterable[Loss]) -> Loss | None:
    """The mean of losses; None of no losses."""
    every = list(found)
    if not every:
        return None
    without = sum(loss.without for loss in every)
    recalibrated = sum(loss.recalibrated for loss in every)
    return Loss(without / len(every), recalibrated / len(every))


def _values(found: Iterable[Loss]) -> list[float]:
    return [value for loss in found for value in loss.values]


def loss_axis(ours: list[float], published: list[float]) -> Axis:
    """An axis over our values and the paper's, but for one of the paper's that would squeeze all others."""
    ranked = sorted([*ours, *published], reverse=True)
    if len(ranked) > 2 and published and ranked[0] == max(published) and ranked[0] > FAR * ranked[1]:
        ranked = ranked[1:]
    return Axis.over(ranked)
