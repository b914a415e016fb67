"""From measured cells to the files of Table 1: `table1.csv`, `table1_long.csv`, `table1_gains.csv`, `table1.md`.

On ImageNet also `table1_paper.csv`, which compares with the paper; with reordered channels `table1_reordered.csv`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.evaluation.significance import LEVEL
from bnrecal.files import atomic_path
from bnrecal.reports.paper import compare, paper_table
from bnrecal.reports.rows import Row
from bnrecal.reports.table1_gains import gains_table, orders_table
from bnrecal.reports.table1_markdown import Tables, markdown

__all__ = ["COLUMNS", "HEADER", "LOSS_P", "Row", "long_table", "paper_table", "wide_table", "write_report"]

COLUMNS = ["fp32", "a8w8", "2t_wo", "2t_w", "4t_wo", "4t_w"]
REORDERED = ["4t_r_wo", "4t_r_w"]  # with reorder=true
HEADER = ["source", "model", *COLUMNS]
LOSS_P = LEVEL  # a loss by recalibration is called significant below this p-value
SPARED = "smt.layers"  # how the reason begins for a layer that a row spares

KEPT = ["threads", "recal", "seed", "images", "top1", "top5", "stderr", "fp32_top1", "drop", "top1_wo_recal", "gain"]
KEPT += [
    "gain_p",
    "control_gain",
    "loss_p",
    "recovered",
    "recovered_low",
    "recovered_high",
    "speedup",
    "cycles",
    "restricted_top1",
    "skipped",
]


def write_report(cells: Sequence[dict[str, Any]], rows: Sequence[Row], out: Path) -> Tables:
    """Write the files, and return what they say; rows whose model is not measured yet are left out.

    Args:
        cells: what `experiment.results.Result.to_json` gives, and besides `source`, `label`, `cell` (the column), and
            `right`: `evaluation.packed.pack` of which images were right (`fp32_right` too in the `a8w8` cells).
    """
    tables = make_tables(cells, rows)
    named = {"table1_long": tables.long, "table1": tables.wide, "table1_gains": tables.gains}
    for name, table in {**named, "table1_paper": tables.paper, "table1_reordered": tables.orders}.items():
        if table is None:
            (out / f"{name}.csv").unlink(missing_ok=True)  # of an earlier table
            continue
        with atomic_path(out / f"{name}.csv") as path:
            # p-values would vanish in fixed digits
            scientific = {column: table[column].map("{:.4g}".format) for column in table if str(column).endswith("_p")}
            table.assign(**scientific).to_csv(path, index=False, float_format="%.4f")
    with atomic_path(out / "table1.md") as path:
        path.write_text(markdown(tables))
    return tables


def make_tables(cells: Sequence[dict[str, Any]], rows: Sequence[Row]) -> Tables:
    """Everything that the files say, on ImageNet with the comparison to the paper."""
    long = long_table(cells)
    wide, gains = wide_table(long, rows), gains_table(cells)
    imagenet = set(long["data"]) == {"imagenet"}
    return Tables(long, wide, gains, compare(cells, wide, gains) if imagenet else None, orders_table(cells))


def long_table(cells: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per cell and seed, float32 included."""
    records = []
    for cell in cells:
        if cell["cell"] == "a8w8":
            records.append(_float_record(cell))
        records.append(_record(cell))
    return pd.DataFrame(records)


def _record(cell: dict[str, Any]) -> dict[str, Any]:
    exceptions = cell["exceptions"].items()
    return {
        "source": cell["source"],
        "model": cell["label"],
        "data": cell["data"],
        "cell": cell["cell"],
        **{key: cell[key] for key in KEPT},
        "one_thread": " ".join(name for name, why in exceptions if "1 thread" in why),
        "spared": " ".join(name for name, why in exceptions if why.startswith(SPARED)),
        "weights_hash": cell["provenance"]["weights_hash"],
        "content": cell["provenance"]["cell"],
    }


def _float_record(cell: dict[str, Any]) -> dict[str, Any]:
    top1, images = cell["fp32_top1"], cell["images"]
    gone = ["threads", "recal", "gain_p", "control_gain", "loss_p", "cycles", "restricted_top1"]
    gone += ["recovered", "recovered_low", "recovered_high"]
    own = {"cell": "fp32", "top1": top1, "top5": cell["fp32_top5"], "drop": 0.0, "gain": 0.0, "speedup": 1.0}
    own |= {"stderr": (top1 * (100 - top1) / images) ** 0.5, "top1_wo_recal": top1, "one_thread": "", "spared": ""}
    return {**_record(cell), **dict.fromkeys(gone), **own}


def wide_table(long: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """The paper's layout: mean top-1 over seeds."""
    means = long.pivot_table(index=["source", "model"], columns="cell", values="top1", aggfunc="mean").reset_index()
    order = {(row.source, row.label): place for place, row in enumerate(rows)}
    means["place"] = [order[key] for key in zip(means["source"], means["model"], strict=True)]
    columns = [*HEADER, *(name for name in REORDERED if name in means)]
    return means.sort_values("place")[columns].reset_index(drop=True)
