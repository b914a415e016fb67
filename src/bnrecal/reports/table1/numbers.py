"""The numbers of Table 1, from measured cells to its CSV files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from bnrecal.evaluation.standard_error import of_share
from bnrecal.quantization.layer_plan import ExceptionKind
from bnrecal.reports.common.tables import PrintedTable, printed, write_table
from bnrecal.reports.table1.columns import A8W8, FLOAT32, Row, header
from bnrecal.reports.table1.gains import Gain, gains, gains_table
from bnrecal.reports.table1.layers import layers_table
from bnrecal.reports.table1.paper import Comparison, compare, comparison_table
from bnrecal.reports.table1.records import CellRecord

PAPER_FILE = "table1_paper.csv"
LAYERS_FILE = "table1_layers.csv"


@dataclass(frozen=True)
class Tables:
    """Everything that is known of a table.

    Attributes:
        long: one row a cell and seed, float32 included.
        wide: the paper's layout, means over seeds.
        gains: what recalibration gains, row by row and pair by pair.
        paper: the comparison with the paper; None away from ImageNet.
        layers: one row a convolution and seed; None where no cell has layers.
    """

    long: pd.DataFrame
    wide: pd.DataFrame
    gains: list[Gain]
    paper: list[Comparison] | None
    layers: pd.DataFrame | None

    @cached_property
    def files(self) -> list[PrintedTable]:
        """The CSV files, as a page lists them."""
        found = [_printed("table1.csv", self.wide), _printed("table1_gains.csv", gains_table(self.gains))]
        if self.paper is not None:
            found.append(_printed(PAPER_FILE, comparison_table(self.paper)))
        if self.layers is not None:
            found.append(printed(LAYERS_FILE, self.layers, ".6g"))
        return [*found, _printed("table1_long.csv", self.long)]


def _printed(name: str, table: pd.DataFrame) -> PrintedTable:
    """A table with four decimals, but for p-values, which would vanish in them: four significant digits."""
    p_values = {
        column: table[column].map("{:.4g}".format, na_action="ignore") for column in table if str(column).endswith("_p")
    }
    return printed(name, table.assign(**p_values), ".4f")


def make_tables(cells: Sequence[CellRecord], rows: Sequence[Row]) -> Tables:
    """Everything that the files say, on ImageNet with the comparison to the paper.

    Args:
        rows: in the order of the table; those whose model is not measured yet are left out.
    """
    long = long_table(cells)
    wide = wide_table(long, rows)
    found = gains(cells)
    imagenet = {cell["data"] for cell in cells} == {"imagenet"}
    paper = compare(cells, wide, found) if imagenet else None
    return Tables(long, wide, found, paper, layers_table(cells))


def write_tables(tables: Tables, out: Path) -> None:
    """Write the CSV files into `out`; one of an earlier table that this one lacks is removed."""
    names = {table.name for table in tables.files}
    for name in {PAPER_FILE, LAYERS_FILE} - names:
        (out / name).unlink(missing_ok=True)
    for table in tables.files:
        write_table(table, out)


def long_table(cells: Sequence[CellRecord]) -> pd.DataFrame:
    """One row a cell and seed, float32 included."""
    records = []
    for cell in cells:
        if cell["cell"] == A8W8.key:
            records.append(_float_record(cell))
        records.append(_record(cell))
    return pd.DataFrame(records)


def _record(cell: CellRecord) -> dict[str, object]:
    exceptions = cell["layer_exceptions"].items()
    return {
        "source": cell["source"],
        "model": cell["label"],
        "data": cell["data"],
        "cell": cell["cell"],
        "threads": cell["threads"],
        "policy": cell["policy"],
        "recal": cell["recal"],
        "seed": cell["seed"],
        "images": cell["images"],
        "top1": cell["top1"],
        "top5": cell["top5"],
        "stderr": cell["stderr"],
        "fp32_top1": cell["fp32_top1"],
        "drop": cell["drop"],
        "top1_wo_recal": cell["top1_wo_recal"],
        "gain": cell["gain"],
        "gain_p": cell["gain_p"],
        "control_gain": cell["control_gain"],
        "loss_p": cell["loss_p"],
        "recovered": cell["recovered"],
        "recovered_low": cell["recovered_low"],
        "recovered_high": cell["recovered_high"],
        "speedup": cell["speedup"],
        "cycles": cell["cycles"],
        "restricted_top1": cell["restricted_top1"],
        "skipped": cell["skipped"],
        "one_thread": " ".join(name for name, one in exceptions if one["threads"] == 1),
        "spared": " ".join(spared(cell)),
        "weights_hash": cell["provenance"]["weights_hash"],
        "content": cell["provenance"]["content"],
    }


def _float_record(cell: CellRecord) -> dict[str, object]:
    """The row of float32, from the cell of A8W8."""
    unknown = ["threads", "policy", "recal", "gain_p", "control_gain", "loss_p", "cycles", "restricted_top1"]
    unknown += ["recovered", "recovered_low", "recovered_high"]
    top1 = cell["fp32_top1"]
    own: dict[str, object] = {
        "cell": FLOAT32.key,
        "top1": top1,
        "top5": cell["fp32_top5"],
        "stderr": 100 * of_share(top1 / 100, cell["images"]),
        "drop": 0.0,
        "top1_wo_recal": top1,
        "gain": 0.0,
        "speedup": 1.0,
        "one_thread": "",
        "spared": "",
    }
    return {**_record(cell), **dict.fromkeys(unknown), **own}


def spared(cell: CellRecord) -> list[str]:
    """Names of the layers that the row or a setting spares from running as many threads as the others."""
    return [name for name, one in cell["layer_exceptions"].items() if one["kind"] == ExceptionKind.SET.value]


def wide_table(long: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """The paper's layout: mean top-1 over seeds."""
    means = long.pivot_table(index=["source", "model"], columns="cell", values="top1", aggfunc="mean").reset_index()
    order = {(row.source, row.label): place for place, row in enumerate(rows)}
    means["place"] = [order[key] for key in zip(means["source"], means["model"], strict=True)]
    return means.sort_values("place")[header()].reset_index(drop=True)
