"""The paper's Table 1 beside what was measured, and when the two are said to agree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from operator import attrgetter

import numpy as np
import pandas as pd

from bnrecal.evaluation.significance import mean_squares
from bnrecal.reports.table1.columns import A8W8, FLOAT32, Column, Pair, shown, threaded_pairs
from bnrecal.reports.table1.gains import Gain, Key, Right, right_by_row
from bnrecal.reports.table1.records import CellRecord

IMAGES = 50_000  # the paper's numbers are for the whole validation set of ILSVRC 2012
FLOAT32_POINTS = 0.1  # tolerance: the same weights and images
A8W8_POINTS = 0.2  # tolerance: the same besides 2,048 images of calibration
LOOSEST = 0.5  # points, at several threads
LAST_BIT = 1e-9  # points

Levels = dict[Key, dict[str, float]]  # top-1 (%) of each row by the key of a column


@dataclass(frozen=True)
class Comparison:
    """A number of a row beside the paper's; top-1 in percent, gains, errors and differences in points.

    Attributes:
        quantity: `Column.key`, or `Pair.gain_key` for what recalibration gains.
        label: its heading.
        measured: mean over seeds.
        stderr: over seeds and images.
        tolerance: how far it may lie off and still agree.
        too_far: half of the paper's gain at several threads, which agrees no more: a number in the middle would agree
            both without and with recalibration. None otherwise.
        decided: whether all of the paper's images were measured; fewer have a sampling error of their own.
    """

    source: str
    model: str
    quantity: str
    label: str
    measured: float
    stderr: float
    paper: float
    tolerance: float
    too_far: float | None
    decided: bool

    @property
    def difference(self) -> float:
        return self.measured - self.paper

    @property
    def agrees(self) -> bool | None:
        """True if the difference is within the tolerance; None if not decided."""
        if not self.decided:
            return None
        # printed to two digits: a difference of exactly the tolerance must not fail by its last bit, nor one of
        # exactly half of the gain pass by it
        off = abs(self.difference)
        if self.too_far is not None and off >= self.too_far - LAST_BIT:
            return False
        return off <= self.tolerance + LAST_BIT


def paper_table() -> pd.DataFrame:
    """The paper's Table 1 in the layout of `table1.csv` (top-1, %)."""
    with (files("bnrecal.reports.table1") / "paper_table1.csv").open() as file:
        return pd.read_csv(file)


def by_row(table: pd.DataFrame) -> Levels:
    """Levels of a table in the layout of `table1.csv`."""
    levels: Levels = {}
    for record in table.to_dict("records"):
        key = (str(record.pop("source")), str(record.pop("model")))
        levels[key] = {str(name): float(value) for name, value in record.items()}
    return levels


def tolerance(column: Column, paper_gain: float) -> float:
    """Return how far from the paper a column, or the gain that ends there, may lie and still agree, in points.

    At several threads less than half of what the paper gains by recalibration (the half itself is too far), so that no
    number agrees both with the one without and with the one with, nor no gain with its gain.

    Args:
        paper_gain: the paper's gain with the same number of threads.
    """
    if column == FLOAT32:
        return FLOAT32_POINTS
    if column == A8W8:
        return A8W8_POINTS
    return min(LOOSEST, abs(paper_gain) / 2)


def compare(cells: Sequence[CellRecord], wide: pd.DataFrame, gains: Sequence[Gain]) -> list[Comparison]:
    """The levels, then the gains at several threads, of each row that the paper has."""
    right = right_by_row(cells)
    measured = by_row(wide)
    whole = min(gain.images for gain in gains) == IMAGES
    found: list[Comparison] = []
    for key, paper in by_row(paper_table()).items():
        if key in measured:
            own = [gain for gain in gains if (gain.source, gain.model) == key]
            found += _levels(key, measured[key], right[key], paper, whole)
            found += _gains(key, own, paper, whole)
    return found


def _levels(
    key: Key, measured: dict[str, float], right: Right, paper: dict[str, float], whole: bool
) -> Iterator[Comparison]:
    for column in shown():
        if column.key in paper:
            stderr = 100 * mean_squares(np.array(right[column.key], dtype=np.float64)).standard_error
            published = _paper_gain(paper, column)
            allowed = tolerance(column, published)
            too_far = abs(published) / 2 if column.threads > 1 else None
            level = measured[column.key]
            yield Comparison(*key, column.key, column.label, level, stderr, paper[column.key], allowed, too_far, whole)


def _gains(key: Key, gains: Sequence[Gain], paper: dict[str, float], whole: bool) -> Iterator[Comparison]:
    for gain in gains:
        pair = gain.pair
        published = paper_gain(paper, pair)
        if pair in threaded_pairs() and published is not None:
            allowed = tolerance(pair.recalibrated, published)
            own = gain.gain
            half = abs(published) / 2
            yield Comparison(
                *key, pair.gain_key, pair.gain_label, own.points, own.stderr, published, allowed, half, whole
            )


def paper_gain(paper: dict[str, float] | None, pair: Pair) -> float | None:
    """The gain of recalibration in a row of the paper; None where the paper lacks the row or one of the columns."""
    if paper is None or pair.without.key not in paper or pair.recalibrated.key not in paper:
        return None
    return paper[pair.recalibrated.key] - paper[pair.without.key]


def _paper_gain(paper: dict[str, float], column: Column) -> float:
    """The paper's gain at the threads of a column; 0 without several."""
    gains = [paper_gain(paper, pair) for pair in threaded_pairs() if column in pair.columns]
    return next((gain for gain in gains if gain is not None), 0.0)


def comparison_table(found: Sequence[Comparison]) -> pd.DataFrame:
    """The frame of `table1_paper.csv`: one row a `Comparison`; `agrees` is empty where it is not decided."""
    columns = ["source", "model", "quantity", "measured", "stderr", "paper", "difference", "tolerance", "agrees"]
    return pd.DataFrame([attrgetter(*columns)(one) for one in found], columns=columns)
