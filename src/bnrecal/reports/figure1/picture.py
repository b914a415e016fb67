"""Figure 1 as a picture: `figure1.png` and `figure1.svg`."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnrecal.reports.common.style import drawing, save
from bnrecal.reports.figure1.curves import PLAN, curve_names, present
from bnrecal.reports.figure1.points import FigurePoint, by_network, by_panel, panel_title


def write_figure1_pictures(points: Sequence[FigurePoint], out: Path) -> None:
    """Write both files into `out`; networks that are not measured yet are left out."""
    with drawing():
        save(draw(points), out, "figure1")


def draw(points: Sequence[FigurePoint]) -> Figure:
    """One panel for each value of `panel`: accuracy lost (0 on top) against speedup, with standard errors."""
    panels = by_panel(points)
    figure = Figure(figsize=(max(5.0, 3.5 * len(panels)), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, own in zip(axes, panels.values(), strict=True):
        _draw_panel(axis, own)
    axes[0].set_ylabel("Top-1 accuracy minus float32\n(percentage points)")
    lines = {}
    for axis in axes:
        for line, name in zip(*axis.get_legend_handles_labels(), strict=True):
            lines[name] = line
    names = curve_names(list(panels.values()))
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=min(3, len(panels)))
    return figure


def _draw_panel(axis: Axes, points: Sequence[FigurePoint]) -> None:
    for curve, own in present(points):
        look = curve.look
        axis.errorbar(
            [point["speedup"] for point in own],
            [-point["drop"] for point in own],
            [point["drop_stderr"] for point in own],
            label=curve.name(own),
            color=look.color,
            marker=look.marker,
            markerfacecolor=look.face,
            linestyle=look.line,
            markersize=8 if look.marker == "*" else 4.5,
            linewidth=1.2,
            elinewidth=0.6,
            zorder=3 if curve.choice == PLAN else 2,
        )
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.text(0.03, 0.03, _collisions(points), transform=axis.transAxes, fontsize=8)
    axis.set_title(panel_title(points))
    axis.set_xlabel("Speedup over one thread (×)")
    axis.xaxis.set_major_locator(MaxNLocator(6))


def _collisions(points: Sequence[FigurePoint]) -> str:
    """A sentence on how often two or more threads are active when all layers run four."""
    firsts = [own[0] for own in by_network(points).values()]
    if len(firsts) == 1:
        return f"collisions at 4T: {100 * firsts[0]['collisions_4t']:.0f} % of steps"
    firsts.sort(key=lambda point: point["pruned"])
    shares = [f"{100 * one['collisions_4t']:.0f} % {'pruned' if one['pruned'] else 'dense'}" for one in firsts]
    return f"collisions at 4T: {', '.join(shares)}"
