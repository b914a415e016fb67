"""All that reports show of made-up results, as plain values that can be kept in a file and compared."""

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bnrecal.reports import layers as layers_picture
from bnrecal.reports.common.document import to_markdown
from bnrecal.reports.figure1 import page as figure1_page
from bnrecal.reports.figure1 import picture as figure1_picture
from bnrecal.reports.table1 import page as table1_page
from bnrecal.reports.table1 import picture as table1_picture
from bnrecal.reports.table1.latex import latex
from bnrecal.reports.table1.losses import loss_charts
from bnrecal.reports.table1.markdown import document
from bnrecal.reports.table1.numbers import Tables, make_tables
from bnrecal.reports.table1.records import CellRecord
from helpers.figure1_points import points
from helpers.table1_cells import ROWS, TOPS, cells_of

FILE = Path(__file__).parents[1] / "reports" / "recorded.json"
DIGITS = 6  # significant ones of the numbers that are kept

SEED_1 = {**TOPS, "2t_w": 67.5, "4t_wo": 61.3}  # recalibration loses at two threads


def report(name: str) -> Any:
    """What one report shows of the made-up results, of numbers, text, lists and dicts alone."""
    return plain(REPORTS[name]())


def _cells(data: str) -> list[CellRecord]:
    cells = [cell for row in ROWS for cell in cells_of(row, data=data)]
    return cells + [cell for row in ROWS for cell in cells_of(row, SEED_1, seed=1, data=data)]


def _tables(data: str) -> Tables:
    return make_tables(_cells(data), ROWS)


def _table1_page() -> table1_page.Content:
    return table1_page.content(_tables("glyphs"), _cells("glyphs"))


def _markdown() -> list[str]:
    return to_markdown(document(_tables("imagenet"))).splitlines()


def _layers_picture() -> list[Figure]:
    """With the relative errors and without."""
    unknown = float("nan")
    layers = pd.DataFrame({"name": ["stem", "conv2", "conv3"], "threads": [0, 4, 2], "range": [unknown, 2.0, 3.0]})
    for active, shares in enumerate([(0.1, 0.6), (0.4, 0.2), (0.25, 0.15), (0.15, 0.05), (0.1, unknown)]):
        layers[f"active_{active}"] = [unknown, *shares]
    errors = layers.assign(mse=[unknown, 0.01, 0.02], mse_wo=[unknown, 0.03, 0.0])
    ranges = {"input_range": [unknown, 2.5, 2.75], "input_range_wo": [unknown, 1.5, 3.25]}
    relative = {"relative_mse": [unknown, 0.1, 0.2], "relative_mse_wo": [unknown, 0.3, 0.0]}
    norms = pd.DataFrame({"name": ["bn1", "bn2"], "mean_shift": [0.0, 0.1], "variance_ratio": [1.0, 0.95]})
    return [
        layers_picture.draw_layers(errors.assign(**ranges, **relative), norms, "with ranges"),
        layers_picture.draw_layers(errors.drop(columns="active_4"), norms, "without"),
    ]


REPORTS: dict[str, Callable[[], Any]] = {
    "table1.csv and others": lambda: [file.csv for file in _tables("imagenet").files],
    "table1.md": _markdown,
    "table1.tex": lambda: latex(_tables("glyphs").wide),
    "table1 page": _table1_page,
    "table1 picture": lambda: table1_picture.draw(loss_charts(_tables("glyphs").wide)),
    "figure1 page": lambda: figure1_page.content(points()),
    "figure1 picture": lambda: figure1_picture.draw(points()),
    "layers picture": _layers_picture,
}


def plain(value: Any) -> Any:
    """A value as `json` holds it: what a dataclass holds by name, a table as CSV, a figure as what is drawn in it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Figure):
        return plain(_figure(value))
    if isinstance(value, pd.DataFrame):
        return plain(value.to_csv(index=False))
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, str):
        return value.splitlines() if "\n" in value else value
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else str(value)


def _figure(figure: Any) -> dict[str, Any]:
    return {
        "size": figure.get_size_inches(),
        "layout": type(figure.get_layout_engine()).__name__,
        "title": figure.get_suptitle(),
        "legends": [_legend(legend) for legend in figure.legends],
        "axes": [_axes(axis) for axis in figure.axes],
    }


def _legend(legend: Any) -> dict[str, Any] | None:
    if legend is None:
        return None
    texts = legend.get_texts()
    return {
        "texts": _names(texts),
        "size": [text.get_fontsize() for text in texts[:1]],
        "columns": legend._ncols,
        "place": [legend._loc, getattr(legend, "_outside_loc", None)],
    }


def _names(texts: Iterable[Any]) -> list[str]:
    return [text.get_text() for text in texts]


def _axes(axis: Any) -> dict[str, Any]:
    return {
        "title": axis.get_title(),
        "labels": [axis.get_xlabel(), axis.get_ylabel()],
        "scales": [axis.get_xscale(), axis.get_yscale()],
        "limits": [axis.get_xlim(), axis.get_ylim()],
        "ticks": [axis.get_xticks(), axis.get_yticks()],
        "names": [_names(axis.get_xticklabels()), _names(axis.get_yticklabels())],
        "lines": [_line(line) for line in axis.get_lines()],
        "bars": [_bar(bar) for bar in axis.patches],
        "texts": [_text(text) for text in axis.texts],
        "segments": [segments.get_segments() for segments in axis.collections],
        "legend": _legend(axis.get_legend()),
    }


def _line(line: Any) -> dict[str, Any]:
    return {
        "label": line.get_label(),
        "x": line.get_xdata(),
        "y": line.get_ydata(),
        "line": [line.get_linestyle(), line.get_linewidth(), to_hex(line.get_color())],
        "marker": [line.get_marker(), line.get_markersize(), str(line.get_markerfacecolor())],
        "order": line.get_zorder(),
    }


def _bar(bar: Any) -> dict[str, Any]:
    return {"box": bar.get_bbox().bounds, "color": to_hex(bar.get_facecolor()), "hatch": bar.get_hatch()}


def _text(text: Any) -> dict[str, Any]:
    return {
        "text": text.get_text(),
        "place": [text.get_position(), text.get_horizontalalignment(), text.get_verticalalignment()],
        "look": [text.get_fontsize(), to_hex(text.get_color())],
    }
