"""Table 1 for a paper or a slide: `table1.png`, `table1.svg`, and `table1.tex` for LaTeX with booktabs."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bnrecal.files import atomic_path
from bnrecal.reports.common.page import Axis, never_fatal
from bnrecal.reports.common.style import Look, drawing, save
from bnrecal.reports.table1.page import Wide, by_row, loss_axis, losses, panels_of, published_in
from bnrecal.reports.table1.paper import paper_table

WITHOUT, WITH = Look("#D55E00", "o", "", filled=False), Look("#0072B2", "o", "")
PAPER = "0.5"
OURS_AT, PAPER_AT = -0.14, 0.16  # where the two lines of a row stand, in rows from its middle
INCHES_A_ROW = 0.42

TEX_PAIRS = {"2t": "2T", "4t": "4T"}  # over pairs of columns, without and with
TEX_END = " \\\\\n"
TEX_TAIL = r"""\bottomrule
\end{tabular}
"""
TEX_SIGNS = {"&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$", "_": r"\_", "{": r"\{", "}": r"\}"}
TEX_SIGNS |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX_SIGNS |= {"†": r"\textsuperscript{\dag}", "‡": r"\textsuperscript{\ddag}"}


def write_table1_pictures(wide: pd.DataFrame, out: Path) -> None:
    """Write `reports.table1.wide_table` as picture and LaTeX table into `out`; a failure is told in one line."""
    with never_fatal(out / "table1.png"):
        ours, paper = by_row(wide), by_row(paper_table())
        with atomic_path(out / "table1.tex") as path:
            path.write_text(tex(ours))
        with drawing():
            save(draw(ours, paper), out, "table1")


def draw(ours: Wide, paper: Wide) -> Figure:
    """Dumbbell charts: points lost against FP32, from without to with recalibration; the paper's in grey."""
    panels = panels_of(ours)
    figure = Figure(figsize=(1.6 + 3.3 * len(panels), 1.3 + INCHES_A_ROW * len(ours)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (prefix, title) in zip(axes, panels, strict=True):
        own = {key: losses(row, prefix) for key, row in ours.items()}
        published = {key: losses(row, prefix) for key, row in published_in(paper, ours, prefix).items()}
        _draw_panel(axis, own, published)
        axis.set_title(title)
    axes[0].set_yticks(range(len(ours)), [f"{model}\n{source}" for source, model in ours], fontsize=8)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named), fontsize=8)
    return figure


Pairs = dict[tuple[str, str], tuple[float, float]]


def _draw_panel(axis: Axes, own: Pairs, published: Pairs) -> None:
    scale = loss_axis([v for pair in own.values() for v in pair], [v for pair in published.values() for v in pair])
    for place, key in enumerate(own):
        _dumbbell(axis, scale, place + OURS_AT, own[key], (WITHOUT, WITH), "")
        if key in published:
            grey = Look(PAPER, "s", "", filled=False), Look(PAPER, "s", "")
            _dumbbell(axis, scale, place + PAPER_AT, published[key], grey, "the paper's, ")
    axis.axvline(0, color="0.4", linewidth=0.8)
    room = 0.14 * (scale.high - scale.low)  # for the numbers beside the outermost points
    axis.set_xlim(scale.low - room, scale.high + room)
    axis.set_xticks(scale.ticks)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("Top-1 below float32 (percentage points)")


def _dumbbell(
    axis: Axes, scale: Axis, height: float, pair: tuple[float, float], looks: tuple[Look, Look], whose: str
) -> None:
    """A line between two marks with their numbers outside; a value beyond the scale is an arrow on its edge."""
    shown = [min(value, scale.high) for value in pair]
    axis.plot(shown, [height, height], color="0.6", linewidth=1, zorder=1)
    for place, (value, at, look, end) in enumerate(zip(pair, shown, looks, ("w/o", "w/"), strict=True)):
        marker = ">" if value > scale.high else look.marker
        axis.plot(
            at,
            height,
            marker=marker,
            color=look.color,
            markerfacecolor=look.face,
            linestyle="none",
            markersize=4 if whose else 5,
            label=f"{whose}{end} recalibration" if marker == look.marker else None,
        )
        if place and pair[0] == pair[1]:
            continue  # one number for two marks on one spot
        right = value > pair[1 - place] or (not place and value == pair[1])
        axis.annotate(
            f"{value:.2f}",
            (at, height),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=6.5,
            color=PAPER if whose else "0",
            path_effects=[withStroke(linewidth=1.5, foreground="white")],  # legible across the line at 0
        )


def tex(ours: Wide) -> str:
    """The table in the paper's layout: top-1 in %, in brackets the difference to FP32."""
    pairs = [(prefix, head) for prefix, head in TEX_PAIRS.items() if all(f"{prefix}_w" in row for row in ours.values())]
    columns = [f"{prefix}_{end}" for prefix, _ in pairs for end in ("wo", "w")]
    lines, previous = [], ""
    for (source, model), row in ours.items():
        values = [f"{row['fp32']:.2f}", f"{row['a8w8']:.2f}"]
        values += [f"{row[name]:.2f} (${row[name] - row['fp32']:+.2f}$)" for name in columns]
        shown = escaped(source) if source != previous else ""
        lines.append(" & ".join([shown, escaped(model), *values]) + TEX_END)
        previous = source
    heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{head}}}" for _, head in pairs)
    rules = " ".join(rf"\cmidrule(lr){{{5 + 2 * i}-{6 + 2 * i}}}" for i in range(len(pairs)))
    return "".join(
        [
            "% needs \\usepackage{booktabs}\n",
            rf"\begin{{tabular}}{{llrr{'rr' * len(pairs)}}}" + "\n\\toprule\n",
            f" & & & & {heads}{TEX_END}{rules}\n",
            f"Source & Model & FP32 & A8W8{' & w/o & w/' * len(pairs)}{TEX_END}\\midrule\n",
            *lines,
            TEX_TAIL,
        ]
    )


def escaped(text: str) -> str:
    """Text with LaTeX's own signs made harmless, and the paper's daggers raised."""
    return "".join(TEX_SIGNS.get(sign, sign) for sign in text)
