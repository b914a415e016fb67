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
from bnrecal.reports.common.style import drawing
from bnrecal.reports.figure1 import page as figure1_page
from bnrecal.reports.figure1 import picture as figure1_picture
from bnrecal.reports.figure1.points import FigurePoint, by_network
from bnrecal.reports.table1 import page as table1_page
from bnrecal.reports.table1 import picture as table1_picture
from bnrecal.reports.table1.columns import Row
from bnrecal.reports.table1.latex import latex
from bnrecal.reports.table1.losses import loss_charts
from bnrecal.reports.table1.markdown import document
from bnrecal.reports.table1.numbers import Tables, make_tables
from bnrecal.reports.table1.paper import IMAGES as PAPERS_IMAGES
from bnrecal.reports.table1.records import CellRecord
from helpers.figure1_points import points
from helpers.table1_cells import ROWS, TOPS, cells_of, packed

FILE = Path(__file__).parents[1] / "reports" / "recorded.json"
DIGITS = 6  # significant ones of the numbers that are kept

SEED_1 = {**TOPS, "2t_w": 67.5, "4t_wo": 61.3}  # recalibration loses at two threads

# Measured once: no loss at two threads, where recalibration costs much; a share that is known at four.
ONCE = Row("PyTorch", "MobileNet-v1‡†", "mobile", spare_worst=True)
ONCE_TOPS = {"a8w8": 69.4, "a8w8_w": 69.2, "2t_wo": 69.1, "2t_w": 67.2, "4t_wo": 50.4, "4t_w": 65.2}
ERRORS = ((2.5e-4, 7.5e-5), (0.0, 0.0), (0.125, 0.03))  # of each layer, without and with recalibration


def report(name: str) -> Any:
    """What one report shows of the made-up results, of numbers, text, lists and dicts alone."""
    with drawing():
        return plain(REPORTS[name]())


def _cells(data: str) -> list[CellRecord]:
    cells = [cell for row in ROWS for cell in cells_of(row, data=data)]
    return cells + [cell for row in ROWS for cell in cells_of(row, SEED_1, seed=1, data=data)]


def _once() -> list[CellRecord]:
    """Cells of one row and one seed, in which everything is there that the others lack."""
    cells = cells_of(ONCE, ONCE_TOPS)
    spared = {"kind": "smt.layers", "threads": 1}
    others = {"stem": {"kind": "first convolution", "threads": 0}, "dw": {"kind": "depthwise", "threads": 1}}
    for place, cell in enumerate(cells):
        cell["policy"] = "mine:RULE"
        cell["restricted_top1"] = cell["top1"] + 0.5
        cell["skipped"] = 2
        cell["stderr"] = 1 + place / 8
        cell["seconds"] = 10.0 * (1 + place // 2)
        cell["layer_exceptions"] = {**others, "layer.a": spared, "layer.b": spared}  # type: ignore[dict-item]
        layers = [{**layer, "steps": 1000 * (2 + number)} for number, layer in enumerate(cell.get("layers", []))]
        for layer, (without, recalibrated) in zip(layers, ERRORS, strict=False):
            layer["relative_mse_wo"] = without
            layer["relative_mse"] = recalibrated
            layer["active_3"] = 0.0
        if layers:
            cell["layers"] = layers  # type: ignore[typeddict-item]
    return cells


def _whole_imagenet() -> list[CellRecord]:
    """Cells on all of the paper's images, some of which agree with the paper."""
    tops = {**TOPS, "a8w8": 69.8, "2t_wo": 68.5, "2t_w": 68.7, "4t_w": 67.75}
    cells = cells_of(ROWS[0], tops, data="imagenet")
    for cell in cells:
        cell["images"] = PAPERS_IMAGES
        cell["right"] = packed(cell["top1"], PAPERS_IMAGES)
        if "fp32_right" in cell:
            cell["fp32_right"] = packed(cell["fp32_top1"], PAPERS_IMAGES)
    return cells


def _varied_points() -> list[FigurePoint]:
    """Points of which no two networks have a value in common, and no two ways to choose layers an advantage."""
    made = points() + [{**one, "label": "ResNet-18 P30", "pruned": 30} for one in points() if one["pruned"]]
    labels = list(by_network(made))
    for place, one in enumerate(made):
        network = labels.index(one["label"])
        one["policy"] = ("A", "mine:RULE")[network % 2]
        one["model"] = f"net{network}"
        one["images"] = 1000 + network
        one["seed"] = network
        one["weights_hash"] = f"{network}123456789abcdef"
        one["seconds"] = 40.0 * (1 + 100 * network)
        one["device"] = f"device {network}"
        one["collisions_4t"] = 0.25 + network / 8
        one["drop_stderr"] = 0.1 + place / 1000
        one["evaluations"] += network
        one["above_highest_error"] = (-0.5, -0.25, 0.25, 0.375, 0.0)[place % 5]  # the standard error is 0.125
        one["drop"] = (one["drop"] + network / 4) * (2.75 if one["panel"] == "c" else 1.0)
    return made


def _files(cells: list[CellRecord], *rows: Row) -> dict[str, Any]:
    """The tables and words of some cells."""
    tables = make_tables(cells, rows)
    return {"csv": [file.csv for file in tables.files], "md": to_markdown(document(tables)).splitlines()}


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
    "table1 of one seed": lambda: _files(_once(), ONCE),
    "table1 page of one seed": lambda: table1_page.content(make_tables(_once(), [ONCE]), _once()),
    "table1 on all of ImageNet": lambda: _files(_whole_imagenet(), ROWS[0]),
    "table1.tex": lambda: latex(_tables("glyphs").wide),
    "table1 page": _table1_page,
    "table1 picture": lambda: table1_picture.draw(loss_charts(_tables("glyphs").wide)),
    "figure1 page": lambda: figure1_page.content(points()),
    "figure1 page of varied points": lambda: figure1_page.content(_varied_points()),
    "figure1 picture": lambda: figure1_picture.draw(points()),
    "figure1 picture of varied points": lambda: figure1_picture.draw(_varied_points()),
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
        "heights": [part._subplotspec.get_gridspec().get_height_ratios() for part in figure.subfigs],
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
        "frame": legend.get_frame_on(),
        "corner": legend._bbox_to_anchor and legend._bbox_to_anchor._bbox.bounds,
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
        "segments": [_segments(segments) for segments in axis.collections],
        "grid": [_ruled(axis.xaxis), _ruled(axis.yaxis)],
        "shared": [len(axis.get_shared_x_axes().get_siblings(axis)), len(axis.get_shared_y_axes().get_siblings(axis))],
        "legend": _legend(axis.get_legend()),
    }


def _segments(segments: Any) -> dict[str, Any]:
    return {
        "ends": segments.get_segments(),
        "width": segments.get_linewidths(),
        "color": [to_hex(color) for color in segments.get_colors()],
        "order": segments.get_zorder(),
    }


def _ruled(side: Any) -> dict[str, Any]:
    """The lines, marks and labels at the places of an axis."""
    first = side.get_major_ticks()[0]
    label = first.label1
    return {
        "lines": [first.gridline.get_visible(), first.gridline.get_linewidth(), to_hex(first.gridline.get_color())],
        "mark": first.tick1line.get_markersize(),
        "label": [label.get_fontsize(), label.get_rotation()],
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
    return {
        "box": bar.get_bbox().bounds,
        "color": to_hex(bar.get_facecolor()),
        "hatch": bar.get_hatch(),
        "edge": [to_hex(bar.get_edgecolor()), bar.get_linewidth()],
    }


def _text(text: Any) -> dict[str, Any]:
    return {
        "text": text.get_text(),
        "place": [text.get_position(), text.get_horizontalalignment(), text.get_verticalalignment()],
        "look": [text.get_fontsize(), to_hex(text.get_color())],
        "around": [effect._gc for effect in text.get_path_effects()],
        "system": text.get_transform() is text.axes.transAxes,
        "beside": [getattr(text, "xyann", None), getattr(text, "anncoords", None)],
    }
