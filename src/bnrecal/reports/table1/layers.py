"""What happens in each layer of Table 1's networks at four threads: `table1_layers.csv`, and charts for the page."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.files import atomic_path

COLLIDING = (2, 3, 4)  # active threads of a step that share a multiplier
BARS = 90  # height of the collision chart, pixels
DOTS = 84  # height of the error chart
INSET = 7  # free space above and below the dots

Layer = dict[str, Any]


def layer_records(layers: pd.DataFrame | None) -> list[Layer]:
    """The rows of `Result.layers` as a cell keeps them in JSON; what was not measured is None."""
    if layers is None:
        return []
    records: list[Layer] = json.loads(layers.to_json(orient="records", double_precision=15))
    return records


def write_layers(cells: Sequence[dict[str, Any]], out: Path) -> None:
    """Write `table1_layers.csv`, one row a convolution and seed; nothing if no cell has layers."""
    records = [
        {"source": cell["source"], "model": cell["label"], "cell": cell["cell"], "seed": cell["seed"], **layer}
        for cell in cells
        for layer in cell.get("layers") or []
    ]
    if records:
        with atomic_path(out / "table1_layers.csv") as path:
            pd.DataFrame(records).to_csv(path, index=False, float_format="%.6g")


def layer_charts(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a network whose layers were measured: bars, dots and axis labels, ready to be drawn.

    Args:
        cells: those of Table 1; a cell at four threads may carry `layers`, one record a convolution.
    """
    charts = []
    for cell in cells:
        layers = [layer for layer in cell.get("layers") or [] if layer["active_0"] is not None]
        if layers and cell["seed"] == min(c["seed"] for c in cells):
            charts.append(_chart(cell, layers))
    return charts


def _chart(cell: dict[str, Any], layers: Sequence[Layer]) -> dict[str, Any]:
    steps = sum(layer["steps"] for layer in layers)
    colliding = sum(layer["steps"] * _share(layer) for layer in layers) / steps if steps else 0.0
    low, high = _decades(layers)
    width = 100 / len(layers)
    return {
        "source": cell["source"],
        "model": cell["label"],
        "count": len(layers),
        "colliding": 100 * colliding,
        "width": round(0.84 * width, 3),
        "bars": [_bar(layer, place * width) for place, layer in enumerate(layers)],
        "dots": [_dots(layer, (place + 0.42) * width, low, high) for place, layer in enumerate(layers)],
        "grid": [{"y": _height(10.0**d, low, high), "label": _power(d)} for d in _some(low, high)],
    }


def _share(layer: Layer) -> float:
    return float(sum(layer[f"active_{active}"] for active in COLLIDING))


def _bar(layer: Layer, x: float) -> dict[str, Any]:
    """Stacked from the bottom: two, three, four active threads."""
    parts, base = [], float(BARS)
    for active in COLLIDING:
        height = BARS * layer[f"active_{active}"]
        base -= height
        if height > 0.05:
            parts.append({"active": active, "y": round(base, 1), "height": round(height, 1)})
    shares = ", ".join(f"{active} active {100 * layer[f'active_{active}']:.1f} %" for active in COLLIDING)
    return {"x": round(x, 3), "parts": parts, "tip": f"{layer['name']}: {shares}"}


def _dots(layer: Layer, x: float, low: int, high: int) -> dict[str, Any]:
    wo, w = layer["relative_mse_wo"], layer["relative_mse"]
    tip = f"{layer['name']}: relative error without {wo:.2g}, with {w:.2g}"
    return {"x": round(x, 3), "wo": _height(wo, low, high), "w": _height(w, low, high), "tip": tip}


def _decades(layers: Sequence[Layer]) -> tuple[int, int]:
    """Powers of ten that enclose every error above 0."""
    errors = [layer[key] for layer in layers for key in ("relative_mse_wo", "relative_mse") if layer[key]]
    if not errors:
        return -3, 0
    low, high = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))
    return low, max(high, low + 1)


def _some(low: int, high: int) -> range:
    """At most four of the powers, the lowest among them."""
    return range(low, high + 1, max(1, math.ceil((high - low) / 3)))


def _height(error: float | None, low: int, high: int) -> float | None:
    """Pixels from the top on a logarithmic scale; None for no error at all."""
    if not error:
        return None
    share = (math.log10(error) - low) / (high - low)
    return round(DOTS - INSET - (DOTS - 2 * INSET) * share, 1)


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
