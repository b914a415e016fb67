"""From measured cells to `table1.csv`, `table1_long.csv` and `table1.md`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import hypot
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.files import atomic_path

COLUMNS = ["fp32", "a8w8", "2t_wo", "2t_w", "4t_wo", "4t_w"]
HEADER = ["source", "model", *COLUMNS]
LOSS_P = 0.05  # a loss by recalibration is called significant below this p-value
SLACK = 0.3  # points of difference to the paper allowed besides two standard errors

KEPT = ["threads", "recal", "seed", "images", "top1", "top5", "stderr", "fp32_top1", "drop", "top1_wo_recal", "gain"]
KEPT += ["gain_p", "recovered", "speedup", "cycles", "restricted_top1", "skipped"]


@dataclass
class Row:
    """One row of the table.

    Attributes:
        spare_worst: run the one layer of highest error with one thread (the paper's dagger).
    """

    source: str
    label: str
    model: str
    spare_worst: bool = False


def write_report(cells: Sequence[dict[str, Any]], rows: Sequence[Row], out: Path) -> None:
    """Write the three files; rows whose model is not measured yet are left out."""
    long = long_table(cells)
    wide = wide_table(long, rows)
    for name, table in (("table1_long.csv", long), ("table1.csv", wide)):
        with atomic_path(out / name) as path:
            table.to_csv(path, index=False, float_format="%.4f")
    with atomic_path(out / "table1.md") as path:
        path.write_text(markdown(long, wide))


def long_table(cells: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a cell and seed, float32 included; on ImageNet with the paper's figure and whether they agree."""
    records = []
    for cell in cells:
        if cell["cell"] == "a8w8":
            records.append(_float_record(cell))
        records.append(_record(cell))
    table = pd.DataFrame(records)
    return _with_paper(table) if set(table["data"]) == {"imagenet"} else table


def _record(cell: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": cell["source"],
        "model": cell["label"],
        "data": cell["data"],
        "cell": cell["cell"],
        **{key: cell[key] for key in KEPT},
        "one_thread": " ".join(name for name, why in cell["exceptions"].items() if "1 thread" in why),
        "weights_hash": cell["provenance"]["weights_hash"],
        "content": cell["provenance"]["cell"],
    }


def _float_record(cell: dict[str, Any]) -> dict[str, Any]:
    top1, images = cell["fp32_top1"], cell["images"]
    unknown = dict.fromkeys(("threads", "recal", "gain_p", "recovered", "cycles", "restricted_top1"))
    own = {"cell": "fp32", "top1": top1, "top5": cell["fp32_top5"], "drop": 0.0, "gain": 0.0, "speedup": 1.0}
    own |= {"stderr": (top1 * (100 - top1) / images) ** 0.5, "top1_wo_recal": top1, "one_thread": ""}
    return {**_record(cell), **unknown, **own}


def paper_table() -> pd.DataFrame:
    """The paper's Table 1 in the layout of `table1.csv` (top-1, %)."""
    with (files("bnrecal.reports") / "paper_table1.csv").open() as file:
        return pd.read_csv(file)


def _with_paper(table: pd.DataFrame) -> pd.DataFrame:
    paper = paper_table().melt(["source", "model"], var_name="cell", value_name="paper")
    table = table.merge(paper, on=["source", "model", "cell"], how="left")
    table["difference"] = table["top1"] - table["paper"]
    agrees = table["difference"].abs() <= 2 * table["stderr"] + SLACK
    table["agrees"] = agrees.where(table["paper"].notna())
    return table


def wide_table(long: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """The paper's layout: mean top-1 over seeds."""
    means = long.pivot_table(index=["source", "model"], columns="cell", values="top1", aggfunc="mean").reset_index()
    order = {(row.source, row.label): place for place, row in enumerate(rows)}
    means["place"] = [order[key] for key in zip(means["source"], means["model"], strict=True)]
    return means.sort_values("place")[HEADER].reset_index(drop=True)


def markdown(long: pd.DataFrame, wide: pd.DataFrame) -> str:
    """The table as the paper prints it, what recalibration gains with its p-values, and what is worth a note."""
    seeds, images = long["seed"].nunique(), int(long["images"].max())
    spread = " (mean ± standard deviation over the seeds)" if seeds > 1 else ""
    lines = [
        f"# Top-1 under NB-SMT, {long['data'].iloc[0]}, {images} validation images, {seeds} seed{'s' * (seeds > 1)}",
        "",
        f"Top-1 in %{spread}, in brackets the difference to FP32 in points; standard error of a cell at most "
        f"{long['stderr'].max():.2f} points. † the one layer of highest error runs one thread. ‡ depthwise "
        "convolutions run one thread.",
        "",
        *_main_table(long, wide),
        "",
        "What recalibration gains, in points, with the p-value of an exact McNemar test on the same images"
        f"{' (first seed)' if seeds > 1 else ''}. A8W8 is the control: what recalibration gains without NB-SMT.",
        "",
        *_gain_table(long, wide),
        "",
        *_notes(long, wide),
    ]
    if "paper" in long:
        lines += ["", *_paper_comparison(long, wide)]
    return "\n".join(lines) + "\n"


def _main_table(long: pd.DataFrame, wide: pd.DataFrame) -> list[str]:
    lines = [
        "| Source | Model | FP32 | A8W8 | 2T w/o | 2T w/ | 4T w/o | 4T w/ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for _, row in wide.iterrows():
        cells = [_cell_text(long, row, name) for name in COLUMNS]
        lines.append(f"| {row['source']} | {row['model']} | {' | '.join(cells)} |")
    return lines


def _cell_text(long: pd.DataFrame, row: pd.Series, name: str) -> str:
    values = _of(long, row, name)["top1"]
    text = f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")
    return text if name in ("fp32", "a8w8") else f"{text} ({values.mean() - row['fp32']:+.2f})"


def _of(long: pd.DataFrame, row: pd.Series, name: str) -> pd.DataFrame:
    return long[(long["source"] == row["source"]) & (long["model"] == row["model"]) & (long["cell"] == name)]


def _gain_table(long: pd.DataFrame, wide: pd.DataFrame) -> list[str]:
    lines = ["| Source | Model | A8W8 | 2T | 4T |", "|---|---|---|---|---|"]
    for _, row in wide.iterrows():
        texts = []
        for name in ("a8w8_w", "2t_w", "4t_w"):
            cells = _of(long, row, name)
            texts.append(f"{cells['gain'].mean():+.2f} (p = {cells['gain_p'].iloc[0]:.2g})")
        lines.append(f"| {row['source']} | {row['model']} | {' | '.join(texts)} |")
    return lines


def _notes(long: pd.DataFrame, wide: pd.DataFrame) -> list[str]:
    drop, half = wide["fp32"] - wide["4t_wo"], wide["fp32"] - wide["2t_wo"]
    gain = wide["4t_w"] - wide["4t_wo"]
    notes = [
        f"- Averaged over the rows, 2T without recalibration loses {half.mean():.2f} points, 4T {drop.mean():.2f}; "
        f"recalibration gains {gain.mean():+.2f} at 4T."
    ]
    for name, label in (("2t_w", "2T"), ("4t_w", "4T")):
        for _, row in wide.iterrows():
            cells = _of(long, row, name)
            if cells["gain"].mean() <= 0:
                sure = "significantly" if cells["gain_p"].iloc[0] < LOSS_P else "not significantly"
                notes.append(
                    f"- {row['source']} {row['model']} does not gain by recalibration at {label}: "
                    f"{cells['gain'].mean():+.2f} points ({sure}, p = {cells['gain_p'].iloc[0]:.2g})."
                )
    daggers = long[long["model"].str.endswith("†") & (long["cell"] == "4t_wo")]
    notes += [f"- {row['source']} {row['model']} spares {row['one_thread']}." for _, row in daggers.head(1).iterrows()]
    return notes


def _paper_comparison(long: pd.DataFrame, wide: pd.DataFrame) -> list[str]:
    lines = [
        f"Next to the paper: measured - paper in points; * agrees within 2 standard errors plus {SLACK} points.",
        "",
        "| Source | Model | FP32 | A8W8 | 2T w/o | 2T w/ | 4T w/o | 4T w/ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for _, row in wide.iterrows():
        texts = []
        if _of(long, row, "fp32")["paper"].isna().all():
            continue  # a row of the user's own
        for name in COLUMNS:
            cells = _of(long, row, name)
            error = hypot(cells["stderr"].mean(), 0 if len(cells) < 2 else cells["top1"].std())
            difference = cells["difference"].mean()
            star = "*" if abs(difference) <= 2 * error + SLACK else ""
            texts.append(f"{cells['paper'].iloc[0]:.2f}: {difference:+.2f}{star} ± {error:.2f}")
        lines.append(f"| {row['source']} | {row['model']} | {' | '.join(texts)} |")
    return lines
