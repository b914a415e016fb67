"""Table 1 as a page: `report.html` beside `table1.csv`."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bnrecal.evaluation.significance import LEVEL
from bnrecal.reports.common.page import Axis, Tick, never_fatal, number, write_page
from bnrecal.reports.common.tables import PrintedTable, custom_policies, flat
from bnrecal.reports.table1.columns import A8W8, FLOAT32, Column, shown
from bnrecal.reports.table1.gains import Gain, Key
from bnrecal.reports.table1.layers import LayerChart, layer_charts
from bnrecal.reports.table1.losses import Loss, LossChart, loss_charts, mean_loss
from bnrecal.reports.table1.numbers import Tables
from bnrecal.reports.table1.paper import by_row, paper_gain, paper_table
from bnrecal.reports.table1.records import CellRecord

PAGE = "report.html"


@dataclass(frozen=True)
class Level:
    """A cell of the main table: top-1 and its difference to float32, ours and the paper's; None where there is none."""

    label: str
    value: str
    difference: str | None
    paper: str | None
    paper_difference: str | None


@dataclass(frozen=True)
class End:
    """A mark at one end of a dumbbell.

    Attributes:
        recal: whether it is the loss with recalibration.
        x: percent of the width.
        right: whether its number stands to the right of it.
        beyond: whether the value lies outside the axis.
    """

    recal: bool
    x: float
    text: str
    right: bool
    tip: str
    beyond: bool


@dataclass(frozen=True)
class Dumbbell:
    """Losses without and with recalibration; one number stands for both where they are the same."""

    wo: End
    w: End
    same: bool


@dataclass(frozen=True)
class PanelRow:
    """The dumbbells of one row."""

    source: str
    model: str
    own: Dumbbell
    paper: Dumbbell | None


@dataclass(frozen=True)
class Panel:
    """A dumbbell chart.

    Attributes:
        zero: place of no loss, percent of the width.
        beyond: whether a value of the paper's lies outside the axis.
    """

    title: str
    rows: list[PanelRow]
    ticks: list[Tick]
    zero: float
    beyond: bool


@dataclass(frozen=True)
class WhatWasRun:
    """Settings, versions, images, and the seconds that each model's cells of one seed took."""

    device: str
    versions: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    images: list[tuple[str, str]]
    times: list[tuple[str, int, float]]
    total: float


@dataclass(frozen=True)
class Content:
    """All that the template shows.

    Attributes:
        averages: a title, the mean over our rows, and over the paper's.
        gains: of each row, pair by pair, each with the paper's gain.
    """

    data: str
    policy: str
    images: int
    seeds: int
    stderr: float
    labels: list[str]
    rows: dict[Key, list[Level]]
    averages: list[tuple[str, Loss | None, Loss | None]]
    panels: list[Panel]
    gains: dict[Key, list[tuple[Gain, float | None]]]
    significant: float
    layers: list[LayerChart]
    run: WhatWasRun
    files: list[PrintedTable]


def write_table1_page(tables: Tables, cells: Sequence[CellRecord], out: Path) -> None:
    """Write `report.html` into `out`; a failure is reported in one line.

    Args:
        tables: what `numbers.make_tables` returned for these cells.
    """
    with never_fatal(out / PAGE):
        write_page(out / PAGE, "table1.html.j2", content(tables, cells))


def content(tables: Tables, cells: Sequence[CellRecord]) -> Content:
    """All that the template shows."""
    long = tables.long
    charts = loss_charts(tables.wide)
    averages = []
    for chart in charts:
        averages.append((chart.pair.title, mean_loss(chart.ours.values()), mean_loss(chart.paper.values())))
    return Content(
        data=str(long["data"].iloc[0]),
        policy=custom_policies(long["policy"].dropna()),
        images=int(long["images"].max()),
        seeds=int(long["seed"].nunique()),
        stderr=float(long["stderr"].max()),
        labels=[column.label for column in shown()],
        rows=levels_by_row(tables.wide),
        averages=averages,
        panels=[panel(chart) for chart in charts],
        gains=gains_by_row(tables),
        significant=LEVEL,
        layers=layer_charts(cells),
        run=what_was_run(cells),
        files=tables.files,
    )


def levels_by_row(wide: pd.DataFrame) -> dict[Key, list[Level]]:
    """The main table: value and difference to FP32 in each cell, ours and the paper's."""
    paper = by_row(paper_table())
    rows = {}
    for key, own in by_row(wide).items():
        rows[key] = [_level(column, own, paper.get(key, {})) for column in shown()]
    return rows


def _level(column: Column, own: dict[str, float], paper: dict[str, float]) -> Level:
    published = number(paper[column.key]) if column.key in paper else None
    return Level(column.label, number(own[column.key]), _difference(column, own), published, _difference(column, paper))


def _difference(column: Column, levels: dict[str, float]) -> str | None:
    """Top-1 minus FP32 in points; None of the columns that others are compared with, and of one that is missing."""
    if column in (FLOAT32, A8W8) or column.key not in levels:
        return None
    return number(levels[column.key] - levels[FLOAT32.key], signed=True)


def panel(chart: LossChart) -> Panel:
    """A dumbbell chart: points lost, from without to with recalibration; the paper's in grey below each."""
    axis = chart.axis
    rows = []
    for key, loss in chart.ours.items():
        paper = dumbbell(axis, chart.paper[key], "paper") if key in chart.paper else None
        rows.append(PanelRow(*key, dumbbell(axis, loss, "measured"), paper))
    beyond = any(max(loss.values) > axis.high for loss in chart.paper.values())
    return Panel(chart.pair.title, rows, axis.marks, axis.x(0.0), beyond)


def dumbbell(axis: Axis, loss: Loss, whose: str) -> Dumbbell:
    """Two points, the label of each on the outer side."""
    same = loss.without == loss.recalibrated
    worse = loss.without > loss.recalibrated
    without = _end(axis, loss.without, f"{whose}, without", recal=False, right=worse or same)
    recalibrated = _end(axis, loss.recalibrated, f"{whose}, with", recal=True, right=not worse and not same)
    return Dumbbell(without, recalibrated, same)


def _end(axis: Axis, value: float, name: str, *, recal: bool, right: bool) -> End:
    tip = f"{name} recalibration: {number(-value, signed=True)} points"
    return End(recal, axis.x(value), number(value), right, tip, value > axis.high)


def gains_by_row(tables: Tables) -> dict[Key, list[tuple[Gain, float | None]]]:
    """The table of gains: at each number of threads, beside the paper's."""
    paper = by_row(paper_table())
    rows: dict[Key, list[tuple[Gain, float | None]]] = {key: [] for key in by_row(tables.wide)}
    for gain in tables.gains:
        key = (gain.source, gain.model)
        rows[key].append((gain, paper_gain(paper.get(key), gain.pair)))
    return rows


def what_was_run(cells: Sequence[CellRecord]) -> WhatWasRun:
    """Settings, versions, images and times."""
    first = cells[0]["provenance"]
    # rows of one model may have been measured at different times; cells of one time carry its whole duration
    durations: dict[tuple[str, int], set[float]] = defaultdict(set)
    for cell in cells:
        durations[str(cell["model"]), int(cell["seed"])].add(float(cell["seconds"]))
    times = [(model, seed, math.fsum(each)) for (model, seed), each in durations.items()]
    config = {key: value for key, value in first["config"].items() if key not in ("model", "seed", "recal")}
    settings = []
    for key, value in flat(config).items():
        if key != "smt.threads" and value not in (None, []):
            settings.append((key, str(value)))
    images = first["images"].items()
    return WhatWasRun(
        device=first["device"],
        versions=list(first["versions"].items()),
        settings=settings,
        images=[(role, f"{one['images']} of {one['split']}, {one['fingerprint']}") for role, one in images],
        times=times,
        total=math.fsum(seconds for _, _, seconds in times),
    )
