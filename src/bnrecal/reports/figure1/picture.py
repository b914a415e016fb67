"""From measured points to `figure1.csv`, `figure1.png` and `figure1.svg`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnrecal.files import atomic_path
from bnrecal.reports.common.style import Look, drawing, save

# (pruned, method, recalibrated) -> legend and look; in the order of the legend
CURVES = {
    (False, "highest_error", False): ("dense, w/o recalibration", Look("#56B4E9", "o", "--", filled=False)),
    (False, "highest_error", True): ("dense, w/ recalibration", Look("#0072B2", "o", "-")),
    (True, "highest_error", False): ("40 % pruned, w/o recalibration", Look("#E69F00", "^", "--", filled=False)),
    (True, "highest_error", True): ("40 % pruned, w/ recalibration", Look("#D55E00", "^", "-")),
    (False, "random", True): ("dense, w/ recalibration, best of random orders", Look("#009E73", "x", ":")),
    (True, "random", True): ("40 % pruned, w/ recalibration, best of random orders", Look("#CC79A7", "+", ":")),
    (False, "plan", True): ("dense, w/ recalibration, searched threads", Look("black", "*", ":")),
    (True, "plan", True): ("40 % pruned, w/ recalibration, searched threads", Look("#666666", "P", ":")),
}
PRUNED_MARK = "P40"


def write_figure(points: Sequence[dict[str, Any]], out: Path) -> None:
    """Write the three files into `out`; networks that are not measured yet are left out."""
    table = pd.DataFrame(points)
    with atomic_path(out / "figure1.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g")
    with drawing():
        save(draw(table), out, "figure1")


def draw(table: pd.DataFrame) -> Figure:
    """One panel for each value of `panel`: accuracy lost (0 on top) against speedup, with standard errors."""
    panels = sorted(table["panel"].unique())
    figure = Figure(figsize=(max(5.0, 3.5 * len(panels)), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (panel, axis) in enumerate(zip(panels, axes, strict=True)):
        _draw_panel(axis, table[table["panel"] == panel], panel)
        if place == 0:
            axis.set_ylabel("Top-1 accuracy minus float32\n(percentage points)")
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    names = [name for name, _ in CURVES.values() if name in handles]
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=min(3, len(panels)))
    return figure


def _draw_panel(axis: Axes, points: pd.DataFrame, panel: str) -> None:
    for key, (name, look) in CURVES.items():
        pruned, method, recal = key
        own = points[
            (points["label"].str.contains(PRUNED_MARK) == pruned)
            & (points["method"] == method)
            & (points["recal"] == recal)
        ].sort_values("speedup")
        if own.empty:
            continue
        axis.errorbar(
            own["speedup"],
            -own["drop"],
            own["drop_stderr"],
            label=name,
            color=look.color,
            marker=look.marker,
            markerfacecolor=look.face,
            linestyle=look.line,
            markersize=8 if look.marker == "*" else 4.5,
            linewidth=1.2,
            elinewidth=0.6,
            zorder=3 if method == "plan" else 2,
        )
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.text(0.03, 0.03, _collisions(points), transform=axis.transAxes, fontsize=8)
    axis.set_title(panel_title(points, panel))
    axis.set_xlabel("Speedup over one thread (×)")
    axis.xaxis.set_major_locator(MaxNLocator(6))


def _collisions(points: pd.DataFrame) -> str:
    """How often two or more threads meet when all layers run four."""
    share = (100 * points.drop_duplicates("label").set_index("label")["collisions_4t"]).sort_index()
    if len(share) == 1:
        return f"collisions at 4T: {share.iloc[0]:.0f} % of steps"
    told = [f"{value:.0f} % {'pruned' if PRUNED_MARK in label else 'dense'}" for label, value in share.items()]
    return f"collisions at 4T: {', '.join(told)}"


def panel_title(points: pd.DataFrame, panel: str) -> str:
    """(a) ResNet-18: 4T with some 2T."""
    model = min(points["label"].unique(), key=len)  # the pruned network's label only adds to it
    return f"({panel}) {model}: 4T with some {points['slow_threads'].iloc[0]}T"
