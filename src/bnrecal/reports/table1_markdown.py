"""Table 1 in words: `table1.md`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnrecal.evaluation.significance import LEVEL

LABELS = {"fp32": "FP32", "a8w8": "A8W8", "2t_wo": "2T w/o", "2t_w": "2T w/", "4t_wo": "4T w/o", "4t_w": "4T w/"}
REORDERED = {"4t_r_wo": "4T r. w/o", "4t_r_w": "4T r. w/"}  # channels reordered
GAINS = {"2t_gain": "2T gain", "4t_gain": "4T gain"}


@dataclass(frozen=True)
class Tables:
    """Everything that is known of a table.

    Attributes:
        long: one row per cell and seed. wide: the paper's layout, means over seeds. gains: `table1_gains.gains_table`.
        paper: `paper.compare`; None away from ImageNet.
        orders: `table1_gains.orders_table`; None without columns of reordered channels.
    """

    long: pd.DataFrame
    wide: pd.DataFrame
    gains: pd.DataFrame
    paper: pd.DataFrame | None
    orders: pd.DataFrame | None

    @property
    def labels(self) -> dict[str, str]:
        """Of the columns that there are."""
        return {name: label for name, label in {**LABELS, **REORDERED}.items() if name in self.wide}


def markdown(tables: Tables) -> str:
    """The table as the paper prints it, what recalibration gains with its p-values, and what is worth a note."""
    long = tables.long
    seeds, images = long["seed"].nunique(), int(long["images"].max())
    spread = " (mean ± standard deviation over the seeds)" if seeds > 1 else ""
    lines = [
        f"# Top-1 under NB-SMT, {long['data'].iloc[0]}, {images} validation images, {seeds} seed{'s' * (seeds > 1)}",
        "",
        f"Top-1 in %{spread}, in brackets the difference to FP32 in points; standard error of a cell at most "
        f"{long['stderr'].max():.2f} points. † the one layer of highest error runs one thread. ‡ depthwise "
        "convolutions run one thread.",
        "",
        *_table(["Source", "Model", *tables.labels.values()], _levels(tables)),
        "",
        *_gains(tables, seeds),
        "",
        *(_orders(tables.orders) if tables.orders is not None else []),
        *_notes(tables),
    ]
    if tables.paper is not None:
        lines += ["", *_paper_comparison(tables.paper, images)]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    first, *rest = ("| " + " | ".join(cells) + " |" for cells in (header, *rows))
    return [first, "|" + "---|" * len(header), *rest]


def _levels(tables: Tables) -> list[list[str]]:
    rows = []
    for _, row in tables.wide.iterrows():
        own = _of(tables.long, row)
        rows.append([row["source"], row["model"], *(_level(own, row, name) for name in tables.labels)])
    return rows


def _level(own: pd.DataFrame, row: "pd.Series[Any]", name: str) -> str:
    values = own.loc[own["cell"] == name, "top1"]
    text = f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")
    return text if name in ("fp32", "a8w8") else f"{text} ({values.mean() - row['fp32']:+.2f})"


def _of(table: pd.DataFrame, row: "pd.Series[Any]") -> pd.DataFrame:
    return table[(table["source"] == row["source"]) & (table["model"] == row["model"])]


def _gains(tables: Tables, seeds: int) -> list[str]:
    test = "a test over all seeds and images" if seeds > 1 else "McNemar's exact test on the same images"
    rows = []
    for _, row in tables.wide.iterrows():
        own = _of(tables.gains, row).set_index("threads")
        told = [f"{one['gain']:+.2f} (p = {one['gain_p']:.2g})" for _, one in own.iterrows()]
        net = [_net(one) for threads, one in own.iterrows() if threads != 1]
        rows.append([row["source"], row["model"], told[0], told[1], net[0], told[2], net[1]])
    return [
        f"What recalibration gains, in points, with the p-value of {test}. The A8W8 column is the control: what",
        "recalibration gains without NB-SMT. Net: the gain less the control's (tested alike), and what share of the",
        "loss to A8W8 that is, with its 95 % confidence interval, where it is known to within half of itself.",
        "p-values are not corrected for their number.",
        "",
        *_table(["Source", "Model", "A8W8", "2T", "2T net", "4T", "4T net"], rows),
    ]


def _orders(orders: pd.DataFrame) -> list[str]:
    rows = [
        [one["source"], one["model"], *(f"{one[g]:+.2f} (p = {one[f'{g}_p']:.2g})" for g in ("gain_wo", "gain_w"))]
        for _, one in orders.iterrows()
    ]
    return [
        f"4T r.: the input channels of each layer reordered (`smt.reorder={orders['reorder'].iloc[0]}`), which decides",
        "which of them are partners. What that gains over 4T, without and with recalibration:",
        "",
        *_table(["Source", "Model", "4T r. w/o", "4T r. w/"], rows),
        "",
    ]


def _net(one: "pd.Series[Any]") -> str:
    return f"{one['net_gain']:+.2f} (p = {one['net_gain_p']:.2g}){_share(one)}"


def _share(one: "pd.Series[Any]") -> str:
    if pd.isna(one["recovered"]):
        return ""
    share, low, high = (100 * one[name] for name in ("recovered", "recovered_low", "recovered_high"))
    return f", {share:.0f} % ({low:.0f} to {high:.0f} %)"


def _notes(tables: Tables) -> list[str]:
    wide = tables.wide
    drop, half = wide["fp32"] - wide["4t_wo"], wide["fp32"] - wide["2t_wo"]
    gain = wide["4t_w"] - wide["4t_wo"]
    notes = [
        f"- Averaged over the rows, 2T without recalibration loses {half.mean():.2f} points, 4T {drop.mean():.2f}; "
        f"recalibration gains {gain.mean():+.2f} at 4T."
    ]
    for threads in (2, 4):
        for _, one in tables.gains[tables.gains["threads"] == threads].iterrows():
            if one["gain"] <= 0:
                sure = "significantly" if one["gain_p"] < LEVEL else "not significantly"
                notes.append(
                    f"- {one['source']} {one['model']} does not gain by recalibration at {threads}T: "
                    f"{one['gain']:+.2f} points ({sure}, p = {one['gain_p']:.2g})."
                )
    return notes + [f"- {text}" for _, row in wide.iterrows() if (text := _spared(_of(tables.long, row)))]


def _spared(own: pd.DataFrame) -> str:
    """Which layers a row spares; the one of highest error may be another for another seed."""
    cells = own[(own["cell"] == "4t_wo") & (own["spared"] != "")]
    if cells.empty:
        return ""
    seeds = cells.groupby("spared", sort=False)["seed"].apply(lambda s: ", ".join(map(str, s)))
    told = [name + (f" (seed {which})" if len(cells) > 1 else "") for name, which in seeds.items()]
    return f"{cells['source'].iloc[0]} {cells['model'].iloc[0]} spares {', '.join(told)}."


def _paper_comparison(paper: pd.DataFrame, images: int) -> list[str]:
    if paper.empty:
        return ["None of these rows is in the paper."]
    decided = paper["agrees"].notna().all()
    verdict = (
        "* agrees: FP32 within 0.1, A8W8 within 0.2, the rest within 0.5 and less than half of the paper's own gain"
        if decided
        else f"no verdict on {images} images: the paper measured all 50,000"
    )
    names = {**LABELS, **GAINS}
    rows = []
    for (source, model), own in paper.groupby(["source", "model"], sort=False):
        told = own.set_index("quantity")
        rows.append([source, model, *(_beside_paper(told.loc[name]) for name in names)])
    return [
        f"Next to the paper: its value: measured - paper ± standard error, in points; {verdict}.",
        "",
        *_table(["Source", "Model", *names.values()], rows),
    ]


def _beside_paper(one: "pd.Series[Any]") -> str:
    star = "*" if pd.notna(one["agrees"]) and one["agrees"] else ""
    return f"{one['paper']:.2f}: {one['difference']:+.2f}{star} ± {one['stderr']:.2f}"
