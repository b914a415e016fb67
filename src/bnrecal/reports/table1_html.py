"""Table 1 as a page: `report.html` beside `table1.csv`."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.reports.page import Axis, flat, never_fatal, number, p_value, raw_table, write_page
from bnrecal.reports.paper import paper_table
from bnrecal.reports.table1 import LOSS_P
from bnrecal.reports.table1_layers import layer_charts
from bnrecal.reports.table1_markdown import Tables

PAGE = "report.html"
FILES = (
    "table1",
    "table1_gains",
    "table1_reordered",
    "table1_paper",
    "table1_layers",
    "table1_long",
)
BASES = ("fp32", "a8w8")  # columns that are compared with, and get no difference of their own
PANELS = (("4t", "Four threads"), ("2t", "Two threads"), ("4t_r", "Four threads, channels reordered"))
FAR = 1.6  # a paper's value so many times beyond everything else is shown as an arrow at the edge, with its number

Wide = dict[tuple[str, str], dict[str, float]]


def write_table1_page(tables: Tables, cells: Sequence[dict[str, Any]], out: Path) -> None:
    """Write `report.html` into `out`, where the table's CSV files are already; a failure is told in one line.

    Args:
        tables: what `reports.table1.write_report` returned for these cells.
    """
    with never_fatal(out / PAGE):
        write_page(out / PAGE, "table1.html.j2", **page_content(tables, cells, out))


def page_content(tables: Tables, cells: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """What the template shows."""
    long, ours, paper = tables.long, by_row(tables.wide), by_row(paper_table())
    panels = panels_of(ours)
    return {
        "data": str(long["data"].iloc[0]),
        "images": int(long["images"].max()),
        "seeds": int(long["seed"].nunique()),
        "stderr": float(long["stderr"].max()),
        "labels": list(tables.labels.values()),
        "rows": [table_row(key, ours[key], paper.get(key), tables.labels) for key in ours],
        "averages": [average(prefix, title, ours, paper) for prefix, title in panels],
        "panels": [panel(prefix, title, ours, paper) for prefix, title in panels],
        "gains": [gain_row(key, tables.gains, paper.get(key)) for key in ours],
        "orders": order_rows(tables.orders),
        "significant": LOSS_P,
        "layers": layer_charts(cells),
        "run": what_was_run(cells),
        "files": [raw_table(out / f"{name}.csv") for name in FILES if (out / f"{name}.csv").is_file()],
    }


def by_row(table: pd.DataFrame) -> Wide:
    """{(source, model): {column: top-1}}."""
    columns = table.columns.drop(["source", "model"])
    return {(row["source"], row["model"]): {name: float(row[name]) for name in columns} for _, row in table.iterrows()}


def panels_of(rows: Wide) -> list[tuple[str, str]]:
    """Prefix and title of the pairs of columns that there are."""
    return [(prefix, title) for prefix, title in PANELS if all(f"{prefix}_w" in row for row in rows.values())]


def published_in(paper: Wide, ours: Wide, prefix: str) -> Wide:
    """The paper's rows that stand beside ours and have this pair of columns."""
    return {key: paper[key] for key in ours if key in paper and f"{prefix}_w" in paper[key]}


def table_row(
    key: tuple[str, str], own: dict[str, float], paper: dict[str, float] | None, labels: dict[str, str]
) -> dict[str, Any]:
    """A row of the main table: value and difference to FP32 in each cell, ours and the paper's."""
    cells = []
    for name, label in labels.items():
        beside = paper if paper and name in paper else None
        cell = {"label": label, "value": number(own[name]), "difference": difference(own, name)}
        cells.append({**cell, "paper": beside and number(beside[name]), "paper_difference": difference(beside, name)})
    return {"source": key[0], "model": key[1], "cells": cells}


def difference(row: dict[str, float] | None, name: str) -> str | None:
    """Top-1 minus FP32 in points; None for the columns it is measured from."""
    return None if row is None or name in BASES else number(row[name] - row["fp32"], signed=True)


def average(prefix: str, title: str, ours: Wide, paper: Wide) -> dict[str, Any]:
    """The mean loss without and with recalibration, ours and the paper's."""
    own = mean_losses(list(ours.values()), prefix)
    same = mean_losses(list(published_in(paper, ours, prefix).values()), prefix)
    return {"title": title, "own": own, "paper": same}


def mean_losses(rows: Sequence[dict[str, float]], prefix: str) -> dict[str, float] | None:
    """Mean points lost against FP32 without (`wo`) and with (`w`) recalibration; None of no rows."""
    if not rows:
        return None
    return {end: sum(row["fp32"] - row[f"{prefix}_{end}"] for row in rows) / len(rows) for end in ("wo", "w")}


def panel(prefix: str, title: str, ours: Wide, paper: Wide) -> dict[str, Any]:
    """A dumbbell chart: points lost, from without to with recalibration; the paper's in grey below each."""
    own = {key: losses(row, prefix) for key, row in ours.items()}
    published = {key: losses(row, prefix) for key, row in published_in(paper, ours, prefix).items()}
    axis = loss_axis([v for pair in own.values() for v in pair], [v for pair in published.values() for v in pair])
    rows = [
        {
            "source": key[0],
            "model": key[1],
            "own": dumbbell(axis, pair, "measured"),
            "paper": dumbbell(axis, published[key], "paper") if key in published else None,
        }
        for key, pair in own.items()
    ]
    ticks = [{"x": axis.x(tick), "label": label} for tick, label in zip(axis.ticks, axis.labels(), strict=True)]
    beyond = any(max(pair) > axis.high for pair in published.values())
    return {"title": title, "rows": rows, "ticks": ticks, "zero": axis.x(0.0), "beyond": beyond}


def losses(row: dict[str, float], prefix: str) -> tuple[float, float]:
    """Points lost without and with recalibration."""
    return row["fp32"] - row[f"{prefix}_wo"], row["fp32"] - row[f"{prefix}_w"]


def loss_axis(own: Sequence[float], published: Sequence[float]) -> Axis:
    """An axis over our values and the paper's, but for one of the paper's that would squeeze all others."""
    ranked = sorted([*own, *published], reverse=True)
    if len(ranked) > 2 and published and ranked[0] == max(published) and ranked[0] > FAR * ranked[1]:
        ranked = ranked[1:]
    return Axis.over(ranked)


def dumbbell(axis: Axis, pair: tuple[float, float], whose: str) -> dict[str, Any]:
    """Two points, the label of each on the outer side."""
    ends = []
    for end, value, other in (("without", pair[0], pair[1]), ("with", pair[1], pair[0])):
        right = value > other or (value == other and end == "without")
        tip = f"{whose}, {end} recalibration: {number(-value, signed=True)} points"
        ends.append(
            {
                "end": end,
                "x": axis.x(value),
                "text": number(value),
                "right": right,
                "tip": tip,
                "beyond": value > axis.high,
            }
        )
    return {"wo": ends[0], "w": ends[1], "same": pair[0] == pair[1]}


def gain_row(key: tuple[str, str], gains: pd.DataFrame, paper: dict[str, float] | None) -> dict[str, Any]:
    """What recalibration gains at each number of threads, net of the control too, beside the paper's gain."""
    own = gains[(gains["source"] == key[0]) & (gains["model"] == key[1])]
    cells = []
    for _, one in own.iterrows():
        threads = int(one["threads"])
        told = {"label": "A8W8" if threads == 1 else f"{threads}T", "net": None, "paper": None, **_tested(one, "gain")}
        if threads > 1:
            told["net"] = {**_tested(one, "net_gain"), "share": _share(one)}
            told["paper"] = paper and number(paper[f"{threads}t_w"] - paper[f"{threads}t_wo"], signed=True)
        cells.append(told)
    return {"source": key[0], "model": key[1], "cells": cells}


def _share(one: pd.Series) -> str | None:
    if pd.isna(one["recovered"]):
        return None
    share, low, high = (number(100 * one[name], 0) for name in ("recovered", "recovered_low", "recovered_high"))
    return f"{share} % ({low} to {high} %)"


def order_rows(orders: pd.DataFrame | None) -> dict[str, Any] | None:
    """What reordering channels gains at four threads, without and with recalibration."""
    if orders is None:
        return None
    rows = [
        {"source": one["source"], "model": one["model"], "cells": [_tested(one, "gain_wo"), _tested(one, "gain_w")]}
        for _, one in orders.iterrows()
    ]
    return {"reorder": orders["reorder"].iloc[0], "rows": rows}


def _tested(one: pd.Series, name: str) -> dict[str, Any]:
    value, p = float(one[name]), float(one[f"{name}_p"])
    return {"value": number(value, signed=True), "p": p_value(p), "sure": p < LOSS_P, "worse": value < 0}


def what_was_run(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Settings, versions, images and times."""
    first = cells[0]["provenance"]
    # rows of one model may have been measured at different times; cells of one time carry its whole duration
    durations: dict[tuple[str, int], set[float]] = defaultdict(set)
    for cell in cells:
        durations[str(cell["model"]), int(cell["seed"])].add(float(cell["seconds"]))
    times = {measured: math.fsum(each) for measured, each in durations.items()}
    config = {key: value for key, value in first["config"].items() if key not in ("model", "seed", "recal")}
    sets = [(role, f"{s['images']} of {s['split']}, {s['fingerprint']}") for role, s in first["images"].items()]
    return {
        "device": first["device"],
        "versions": list(first["versions"].items()),
        "settings": [(key, value) for key, value in flat(config) if key != "smt.threads"],
        "images": sets,
        "seeds": sorted({int(cell["seed"]) for cell in cells}),
        "times": [{"model": model, "seed": seed, "seconds": took} for (model, seed), took in times.items()],
        "total": math.fsum(times.values()),
    }
