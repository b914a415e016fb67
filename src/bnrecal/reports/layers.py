"""Pictures of what happened in each layer: `bnrecal plot FOLDER`.

FOLDER is one that an experiment wrote (`layers.csv`, `batchnorm.csv`); `layers.png` and `layers.svg` go there too.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from bnrecal.errors import BnrecalError
from bnrecal.experiment.results import BATCHNORM_FILE, LAYERS_FILE, RESULT_FILE, read_result
from bnrecal.reports.common.style import Look, drawing, save

BEFORE = Look("#D55E00", "o", "", filled=False)  # drawn larger: it shows around the other where both are the same
AFTER = Look("#0072B2", "s", "")
RANGE = Look("black", "_", "")
# Active threads in a step: 0 and 1 are exact, more collide; distinct by grey level and hatching.
SHARES = {
    0: ("white", ""),
    1: ("0.85", ""),
    2: ("0.65", "////"),
    3: ("0.45", "...."),
    4: ("0.2", ""),
}
INCHES_A_LAYER = 0.17


def draw_folder(folder: Path) -> list[Path]:
    """Draw `layers.png` and `layers.svg` from the tables of one experiment; returns their paths."""
    layers = read_table(folder / LAYERS_FILE, ("name", "threads", "active_0", "mse", "mse_wo", "range"))
    norms = read_table(folder / BATCHNORM_FILE, ("name", "mean_shift", "variance_ratio"))
    title = _title(folder)
    with drawing():
        return save(draw_layers(layers, norms, title), folder, "layers")


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file with at least these columns.

    Raises:
        BnrecalError: if there is no such file, it is cut off, or a column is missing or, besides `name`, holds words.
    """
    if not path.is_file():
        raise BnrecalError(f"no {path}: give the folder of a finished experiment (python -m bnrecal model=...)")
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            raise BnrecalError(f"{path} is cut off in its last line: let the experiment write it again")
        table = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise BnrecalError(f"{path} cannot be read as a table: {error}") from error
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        raise BnrecalError(f"{path} is not a table of bnrecal: it has no {', '.join(missing) or 'rows'}")
    words = [column for column in columns if column != "name" and not pd.api.types.is_numeric_dtype(table[column])]
    if words:
        raise BnrecalError(f"{path} is not a table of bnrecal: {', '.join(words)} must hold numbers alone")
    return table


def _title(folder: Path) -> str:
    path = folder / RESULT_FILE
    if not path.exists():
        return folder.name
    result = read_result(path)
    try:
        recal = "with" if result["recal"] else "without"
        return f"{result['model']} on {result['data']}, {result['threads']} threads, {recal} recalibration"
    except KeyError as error:
        raise BnrecalError(
            f"{path} has no {error}: it is damaged or of an earlier version, measure it again"
        ) from error


def draw_layers(layers: pd.DataFrame, norms: pd.DataFrame, title: str) -> Figure:
    """Three rows over the convolutions (collisions, error, ranges), two over the BatchNorm layers."""
    width = min(24.0, max(7.0, 2 + INCHES_A_LAYER * max(len(layers), len(norms))))
    figure = Figure(figsize=(width, 11.5), layout="constrained")
    figure.suptitle(title)
    above, below = figure.subfigures(2, 1, height_ratios=[3, 2], squeeze=False)[:, 0]
    _draw_rows(above, layers["name"], [(layers, _draw_active), (layers, _draw_errors), (layers, _draw_ranges)])
    _draw_rows(below, norms["name"], [(norms, _draw_means), (norms, _draw_variances)])
    return figure


Drawer = Callable[[Axes, pd.DataFrame], None]


def _draw_rows(figure: SubFigure, names: "pd.Series[str]", rows: Sequence[tuple[pd.DataFrame, Drawer]]) -> None:
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (table, draw) in zip(axes, rows, strict=True):
        draw(axis, table)
        axis.grid(axis="x", linewidth=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes[-1].set_xlim(-0.6, len(names) - 0.4)


def _draw_active(axis: Axes, layers: pd.DataFrame) -> None:
    bottom = pd.Series(0.0, index=layers.index)
    for active, (grey, hatch) in SHARES.items():
        share = 100 * layers.get(f"active_{active}", pd.Series(0.0, index=layers.index)).fillna(0.0)
        if share.any():
            label = f"{active} active" + (" (collide)" if active > 1 else "")
            bars = axis.bar(layers.index, share, bottom=bottom, label=label, color=grey, edgecolor="0", linewidth=0.4)
            for bar in bars:
                bar.set_hatch(hatch)
            bottom = bottom + share
    axis.set_ylabel("Steps of a processing\nelement (%)")
    axis.set_ylim(0, 100)


def _draw_errors(axis: Axes, layers: pd.DataFrame) -> None:
    relative = "relative_mse" in layers and "relative_mse_wo" in layers
    column = "relative_mse" if relative else "mse"
    _points(axis, layers[f"{column}_wo"], BEFORE, "before recalibration")
    _points(axis, layers[column], AFTER, "after recalibration")
    axis.set_yscale("log")
    axis.set_ylabel("Mean squared error of the\noutput" + (" / mean square" if relative else " (activation units²)"))


def _draw_ranges(axis: Axes, layers: pd.DataFrame) -> None:
    axis.plot(layers.index, layers["range"], label="range of the 8-bit grid", **_style(RANGE, size=9))
    for column, look, label in (
        ("input_range_wo", BEFORE, "before recalibration"),
        ("input_range", AFTER, "after recalibration"),
    ):
        if column in layers:
            _points(axis, layers[column], look, label)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("Largest input\n(activation units)")


def _draw_means(axis: Axes, norms: pd.DataFrame) -> None:
    _points(axis, norms["mean_shift"], AFTER)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("Shift of the mean (trained\nstandard deviations, RMS)")


def _draw_variances(axis: Axes, norms: pd.DataFrame) -> None:
    axis.axhline(1, color="0.4", linewidth=0.8)
    _points(axis, norms["variance_ratio"], AFTER)
    axis.set_ylabel("Variance after / before\n(geometric mean)")


def _points(axis: Axes, values: "pd.Series[float]", look: Look, label: str | None = None) -> None:
    shown = values.where(values > 0) if axis.get_yscale() == "log" else values
    axis.plot(values.index, shown, label=label, **_style(look, size=4.0 if look.filled else 7.0))


def _style(look: Look, size: float) -> dict[str, Any]:
    return {
        "color": look.color,
        "marker": look.marker,
        "markerfacecolor": look.face,
        "linestyle": look.line or "none",
        "markersize": size,
    }
