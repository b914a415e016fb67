"""Figure 1 as a page: `report.html` beside `figure1.csv`, with the value of every point under the pointer."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.reports.figure1 import CURVES, PRUNED_MARK, panel_title
from bnrecal.reports.page import Axis, never_fatal, number, p_value, raw_table, write_page

PAGE = "report.html"
SHAPES = {"o": "circle", "^": "triangle", "*": "star", "P": "plus", "x": "cross", "+": "lines"}
SHAPES |= {"s": "square", "D": "diamond"}  # as in figure1.png
USUAL = "highest_error"  # the order that needs least thought; the paper leaves open how it chose
OTHERS = {
    "plan": "Threads found by the search",
    "random": "The best of random orders, on as many images",
    "reordered": "The same layers slowed, the input channels of every layer reordered",
}
METHODS = {
    USUAL: "highest error first",
    "plan": "searched",
    "random": "best of random",
    "reordered": "highest error first, channels reordered",
}
TOP, HEIGHT = 14, 250  # free space above, and height of, the field of a chart, in pixels
BUDGET = ("evaluations", "evaluated_images")
SURE = 2.0  # standard errors from which a difference between two ways to choose layers counts

Curve = tuple[bool, str, bool]


def write_figure1_page(points: Sequence[dict[str, Any]], out: Path) -> None:
    """Write `report.html` into `out`, where `figure1.csv` is already; a failure is told in one line."""
    with never_fatal(out / PAGE):
        write_page(out / PAGE, "figure1.html.j2", **page_content(points, out))


def page_content(points: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """What the template shows."""
    table = pd.DataFrame(points)
    present = [key for key in CURVES if not select(table, key).empty]
    return {
        "data": str(table["data"].iloc[0]),
        "images": int(table["images"].max()),
        "facts": [fact(label, own) for label, own in table.groupby("label", sort=False)],
        "others": [told for method, name in OTHERS.items() if (told := beside_usual(table, method, name))],
        "budgets": [told for label, own in table.groupby("label", sort=False) if (told := budget(label, own))],
        "legend": [legend_entry(key) for key in present],
        "order": ", ".join(table.loc[table["method"] == "reordered", "reorder"].unique()),
        "panels": [panel(own, str(name)) for name, own in table.groupby("panel")],
        "runs": [run_of(str(label), own) for label, own in table.groupby("label", sort=False)],
        "files": [raw_table(out / "figure1.csv")],
    }


def select(table: pd.DataFrame, key: Curve) -> pd.DataFrame:
    """The points of one curve, slowest first."""
    pruned, method, recal = key
    is_pruned = table["label"].str.contains(PRUNED_MARK, regex=False)
    return table[(is_pruned == pruned) & (table["method"] == method) & (table["recal"] == recal)].sort_values("speedup")


def look(key: Curve) -> dict[str, str]:
    """How a curve is drawn: colour says which network, fill and line whether it is recalibrated, as in the PNG."""
    pruned, method, recal = key
    shape = SHAPES[CURVES[key][1].marker]
    kind = ("with" if recal else "without") if method == USUAL else "searched" if method == "plan" else method
    return {"shape": shape, "look": f"{'pruned' if pruned else 'dense'} {kind}"}


def legend_entry(key: Curve) -> dict[str, str]:
    """A curve's name and look."""
    return {"name": CURVES[key][0], **look(key)}


def fact(label: Any, own: pd.DataFrame) -> dict[str, Any]:
    """What happens to one network at its highest speedup, without and with recalibration."""
    usual = own[own["method"] == USUAL]
    fastest = usual[usual["speedup"] == usual["speedup"].max()]
    wo, w = (-float(fastest[fastest["recal"] == recal]["drop"].iloc[0]) for recal in (False, True))
    collisions = 100 * float(own["collisions_4t"].iloc[0])
    return {"label": label, "speedup": float(fastest["speedup"].iloc[0]), "wo": wo, "w": w, "collisions": collisions}


def beside_usual(table: pd.DataFrame, method: str, name: str) -> dict[str, Any] | None:
    """At how many operating points another choice of threads is better, or worse, than the highest-error order."""
    own = table[table["method"] == method]
    if own.empty:
        return None
    ahead, error = own["above_highest_error"], SURE * own["above_highest_error_stderr"]
    better, worse = (ahead > error) & (ahead > 0), (ahead < -error) & (ahead < 0)
    return {"name": name, "points": len(own), "better": int(better.sum()), "worse": int(worse.sum())}


def budget(label: Any, own: pd.DataFrame) -> dict[str, Any] | None:
    """How many choices the search and random orders measured, and over how many images; None without a search."""
    if not {"plan", "random"} <= set(own["method"]):
        return None
    spent = own.drop_duplicates("method").set_index("method")
    counts = {method: {k: int(spent.loc[method, k]) for k in BUDGET} for method in ("plan", "random")}
    return {"label": label, **counts}


def panel(own: pd.DataFrame, name: str) -> dict[str, Any]:
    """A chart: axes, curves with their points, and the same values as rows of a table."""
    across = Axis.over([float(value) for value in own["speedup"]], zero=False)
    lows, highs = -own["drop"] - own["drop_stderr"], -own["drop"] + own["drop_stderr"]
    up = Axis.over([float(value) for value in (*lows, *highs)], ticks=6)
    curves = [curve(select(own, key), key, across, up) for key in CURVES if not select(own, key).empty]
    return {
        "title": panel_title(own, name),
        "curves": curves,
        "height": TOP + HEIGHT,
        "across": [{"x": across.x(t), "label": text} for t, text in zip(across.ticks, across.labels(), strict=True)],
        "up": [{"y": y(up, t), "label": text} for t, text in zip(up.ticks, up.labels(), strict=True)],
        "zero": y(up, 0.0),
        "rows": [table_row(row) for _, row in own.sort_values(["label", "speedup", "curve"]).iterrows()],
    }


def y(axis: Axis, value: float) -> float:
    """Pixels from the top."""
    return round(TOP + HEIGHT * (1 - axis.share(value)), 1)


def curve(own: pd.DataFrame, key: Curve, across: Axis, up: Axis) -> dict[str, Any]:
    """Marks with error bars and what they say, and the lines between them."""
    marks = []
    for _, row in own.iterrows():
        loss, error = -float(row["drop"]), float(row["drop_stderr"])
        place = {"x": across.x(float(row["speedup"])), "y": y(up, loss)}
        marks.append(
            {**place, "low": y(up, loss - error), "high": y(up, loss + error), "tip": tip(row, CURVES[key][0])}
        )
    return {"name": CURVES[key][0], **look(key), "marks": marks, "lines": list(pairwise(marks))}


def tip(row: pd.Series, name: str) -> str:
    """What the pointer shows at a point."""
    lines = [
        f"{row['label']}: {name}",
        f"{number(float(row['speedup']))} × faster, {int(row['slowed'])} layers slowed",
        f"top-1 {number(float(row['top1']))} %, {_difference(row)}",
    ]
    if row["recal"]:
        lines.append(f"recalibration gains {number(float(row['gain']), signed=True)} (p = {p_value(row['gain_p'])})")
    return "\n".join(lines)


def _difference(row: pd.Series) -> str:
    return f"{number(-float(row['drop']), signed=True)} ± {number(float(row['drop_stderr']))}"


def table_row(row: pd.Series) -> dict[str, Any]:
    """A point as a row of text."""
    return {
        "label": row["label"],
        "cells": [
            number(float(row["speedup"])),
            METHODS[row["method"]],
            "with" if row["recal"] else "without",
            str(int(row["slowed"])),
            number(float(row["top1"])),
            _difference(row),
        ],
    }


def run_of(label: str, own: pd.DataFrame) -> dict[str, Any]:
    """What was run for one network; cells of older versions do not know their time."""
    first = own.iloc[0]
    took = None
    if "seconds" in own and pd.notna(first["seconds"]):  # reordered channels are measured apart from the rest
        took = float(own.groupby(own["method"] == "reordered")["seconds"].first().sum())
    return {
        "label": label,
        "model": first["model"],
        "points": len(own),
        "images": int(first["images"]),
        "seed": int(first["seed"]),
        "weights": str(first["weights_hash"])[:12],
        "seconds": took,
        "device": str(first["device"]) if "device" in own and pd.notna(first["device"]) else "–",
    }
