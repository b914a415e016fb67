"""Collisions and errors in each layer of Table 1's networks: `table1_layers.csv`, and charts for the page."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bnrecal.reports.table1.records import CellRecord, LayerRecord

BARS = 90  # height of the collision chart, pixels
DOTS = 84  # height of the error chart, pixels
INSET = 7  # free space above and below the dots, pixels
EXPONENTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class BarPart:
    """Part of a bar: the steps in which `active` threads share a multiplier; places in pixels."""

    active: int
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """Collisions of one layer.

    Attributes:
        x: left edge, percent of the width.
        tip: text under the pointer.
    """

    x: float
    parts: list[BarPart]
    tip: str


@dataclass(frozen=True)
class Dots:
    """Errors of one layer; places in pixels from the top, None for no error at all.

    Attributes:
        x: percent of the width.
        wo, w: without and with recalibration.
    """

    x: float
    wo: float | None
    w: float | None
    tip: str


@dataclass(frozen=True)
class LayerChart:
    """Both charts of one network.

    Attributes:
        count: layers that were measured.
        colliding: percent of all steps in which threads collide.
        width: of a bar, percent.
        grid: lines across the chart of errors: pixels from the top, and a label.
    """

    source: str
    model: str
    count: int
    colliding: float
    width: float
    bars: list[Bar]
    dots: list[Dots]
    grid: list[tuple[float | None, str]]


def layer_records(layers: pd.DataFrame) -> list[LayerRecord]:
    """The rows of `Result.layers` as a cell keeps them in JSON; what was not measured is None."""
    records: list[LayerRecord] = json.loads(layers.to_json(orient="records", double_precision=15))
    return records


def layers_table(cells: Sequence[CellRecord]) -> pd.DataFrame | None:
    """The frame of `table1_layers.csv`, one row a convolution and seed; None if no cell has layers."""
    records = []
    for cell in cells:
        about = {"source": cell["source"], "model": cell["label"], "cell": cell["cell"], "seed": cell["seed"]}
        records += [{**about, **layer} for layer in cell.get("layers", [])]
    return pd.DataFrame(records) if records else None


def layer_charts(cells: Sequence[CellRecord]) -> list[LayerChart]:
    """One entry a network whose layers were measured; of several seeds the first."""
    first = min(cell["seed"] for cell in cells)
    charts = []
    for cell in cells:
        layers = [layer for layer in cell.get("layers", []) if layer["active_0"] is not None]
        if layers and cell["seed"] == first:
            charts.append(_chart(cell, layers))
    return charts


def _chart(cell: CellRecord, layers: Sequence[LayerRecord]) -> LayerChart:
    steps = sum(layer["steps"] for layer in layers)
    colliding = sum(layer["steps"] * sum(_colliding(layer).values()) for layer in layers)
    low, high = _decades(layers)
    width = 100 / len(layers)
    return LayerChart(
        source=cell["source"],
        model=cell["label"],
        count=len(layers),
        colliding=100 * colliding / steps if steps else 0.0,
        width=round(0.84 * width, 3),
        bars=[_bar(layer, place * width) for place, layer in enumerate(layers)],
        dots=[_dots(layer, (place + 0.42) * width, low, high) for place, layer in enumerate(layers)],
        grid=[(_height(10.0**power, low, high), _power(power)) for power in _some(low, high)],
    )


def _colliding(layer: LayerRecord) -> dict[int, float]:
    """Shares of the steps in which threads share a multiplier, by the number of active threads."""
    shares = {2: layer["active_2"], 3: layer["active_3"], 4: layer["active_4"]}
    return {active: share or 0.0 for active, share in shares.items()}


def _bar(layer: LayerRecord, x: float) -> Bar:
    """Stacked from the bottom: two, three, four active threads."""
    parts = []
    base = float(BARS)
    for active, share in _colliding(layer).items():
        height = BARS * share
        base -= height
        if height > 0.05:
            parts.append(BarPart(active, round(base, 1), round(height, 1)))
    shares = ", ".join(f"{active} active {100 * share:.1f} %" for active, share in _colliding(layer).items())
    return Bar(round(x, 3), parts, f"{layer['name']}: {shares}")


def _dots(layer: LayerRecord, x: float, low: int, high: int) -> Dots:
    without = layer["relative_mse_wo"] or 0.0
    recalibrated = layer["relative_mse"] or 0.0
    tip = f"{layer['name']}: relative error without {without:.2g}, with {recalibrated:.2g}"
    return Dots(round(x, 3), _height(without, low, high), _height(recalibrated, low, high), tip)


def _decades(layers: Sequence[LayerRecord]) -> tuple[int, int]:
    """Powers of ten that enclose every error above 0."""
    measured = [layer["relative_mse_wo"] for layer in layers] + [layer["relative_mse"] for layer in layers]
    errors = [error for error in measured if error]
    if not errors:
        return -3, 0
    low = math.floor(math.log10(min(errors)))
    return low, max(math.ceil(math.log10(max(errors))), low + 1)


def _some(low: int, high: int) -> range:
    """Return at most four of the powers, the lowest among them."""
    return range(low, high + 1, max(1, math.ceil((high - low) / 3)))


def _height(error: float | None, low: int, high: int) -> float | None:
    """Pixels from the top on a logarithmic scale; None for no error at all."""
    if not error:
        return None
    share = (math.log10(error) - low) / (high - low)
    return round(DOTS - INSET - (DOTS - 2 * INSET) * share, 1)


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else "10" + str(exponent).translate(EXPONENTS)
