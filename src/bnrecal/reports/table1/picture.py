"""Table 1 for a paper or a slide: `table1.png` and `table1.svg`."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bnrecal.reports.common.page import Axis, never_fatal
from bnrecal.reports.common.style import Look, drawing, save
from bnrecal.reports.table1.latex import write_latex
from bnrecal.reports.table1.losses import Loss, LossChart, loss_charts

GREY = "0.5"
INCHES_A_ROW = 0.42


@dataclass(frozen=True)
class Style:
    """The look of a dumbbell.

    Attributes:
        whose: how the legend names it, before "w/o recalibration".
        offset: where it stands, in rows from the middle of its row.
        size: of a mark, points.
        ink: colour of the numbers.
    """

    whose: str
    without: Look
    recalibrated: Look
    offset: float
    size: float
    ink: str


OURS = Style("", Look("#D55E00", "o", "", filled=False), Look("#0072B2", "o", ""), -0.14, 5, "0")
PAPERS = Style("the paper's, ", Look(GREY, "s", "", filled=False), Look(GREY, "s", ""), 0.16, 4, GREY)


def write_table1_pictures(wide: pd.DataFrame, out: Path) -> None:
    """Write a table in the layout of `table1.csv` as picture and LaTeX table; a failure is reported in one line."""
    with never_fatal(out / "table1.png"):
        write_latex(wide, out)
        with drawing():
            save(draw(loss_charts(wide)), out, "table1")


def draw(charts: list[LossChart]) -> Figure:
    """Dumbbell charts: points lost against FP32, from without to with recalibration; the paper's in grey."""
    rows = list(charts[0].ours)
    figure = Figure(figsize=(1.6 + 3.3 * len(charts), 1.3 + INCHES_A_ROW * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(charts), sharey=True, squeeze=False)[0]
    for axis, chart in zip(axes, charts, strict=True):
        _draw_panel(axis, chart)
    axes[0].set_yticks(range(len(rows)), [f"{model}\n{source}" for source, model in rows], fontsize=8)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named), fontsize=8)
    return figure


def _draw_panel(axis: Axes, chart: LossChart) -> None:
    scale = chart.axis
    for place, (key, loss) in enumerate(chart.ours.items()):
        _draw_dumbbell(axis, scale, place, loss, OURS)
        if key in chart.paper:
            _draw_dumbbell(axis, scale, place, chart.paper[key], PAPERS)
    axis.axvline(0, color="0.4", linewidth=0.8)
    room = 0.14 * (scale.high - scale.low)  # for the numbers beside the outermost points
    axis.set_xlim(scale.low - room, scale.high + room)
    axis.set_xticks(scale.ticks)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("Top-1 below float32 (percentage points)")
    axis.set_title(chart.pair.title)


def _draw_dumbbell(axis: Axes, scale: Axis, place: int, loss: Loss, style: Style) -> None:
    """A line between two marks with their numbers outside; a value beyond the scale is an arrow on its edge."""
    height = place + style.offset
    shown = [min(value, scale.high) for value in loss.values]
    axis.plot(shown, [height, height], color="0.6", linewidth=1, zorder=1)
    _draw_mark(axis, scale, height, loss.without, style.without, style, "w/o")
    _draw_mark(axis, scale, height, loss.recalibrated, style.recalibrated, style, "w/")
    same = loss.without == loss.recalibrated
    worse = loss.without > loss.recalibrated
    _draw_number(axis, scale, height, loss.without, style, right=worse or same)
    if not same:  # else one number stands for two marks on one spot
        _draw_number(axis, scale, height, loss.recalibrated, style, right=not worse)


def _draw_mark(axis: Axes, scale: Axis, height: float, value: float, look: Look, style: Style, end: str) -> None:
    beyond = value > scale.high
    axis.plot(
        min(value, scale.high),
        height,
        marker=">" if beyond else look.marker,
        color=look.color,
        markerfacecolor=look.face,
        linestyle="none",
        markersize=style.size,
        label=None if beyond else f"{style.whose}{end} recalibration",
    )


def _draw_number(axis: Axes, scale: Axis, height: float, value: float, style: Style, *, right: bool) -> None:
    axis.annotate(
        f"{value:.2f}",
        (min(value, scale.high), height),
        xytext=(5 if right else -5, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=6.5,
        color=style.ink,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],  # legible across the line at 0
    )
