"""Table 1 in words: `table1.md`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bnrecal.evaluation.significance import LEVEL
from bnrecal.files import atomic_path
from bnrecal.reports.common.document import Block, Entry, Heading, to_markdown
from bnrecal.reports.common.tables import custom_policies
from bnrecal.reports.table1.columns import (
    A8W8,
    FLOAT32,
    Column,
    Pair,
    fastest_pair,
    shown,
    threaded_pairs,
)
from bnrecal.reports.table1.gains import Gain, Key
from bnrecal.reports.table1.numbers import Tables
from bnrecal.reports.table1.paper import A8W8_POINTS, FLOAT32_POINTS, IMAGES, LOOSEST, Comparison, by_row


def write_markdown(tables: Tables, out: Path) -> None:
    """Write `table1.md` into `out`."""
    with atomic_path(out / "table1.md") as path:
        path.write_text(to_markdown(document(tables)))


def document(tables: Tables) -> list[Block]:
    """The table as the paper prints it, what recalibration gains with its p-values, and what is worth a note."""
    seeds = int(tables.long["seed"].nunique())
    images = int(tables.long["images"].max())
    blocks: list[Block] = [
        _heading(tables, images, seeds),
        _explanation(tables, seeds),
        _levels(tables),
        _gains_explanation(seeds),
        _gains(tables),
        (_averages(tables.wide), *_losses(tables.gains), *_spared(tables)),
    ]
    if tables.paper is not None:
        blocks += _paper(tables.paper, images)
    return blocks


def _heading(tables: Tables, images: int, seeds: int) -> Heading:
    data = tables.long["data"].iloc[0]
    policy = custom_policies(tables.long["policy"].dropna())
    return Heading(f"Top-1 under NB-SMT{policy}, {data}, {images} validation images, {seeds} seed{'s' * (seeds > 1)}")


def _explanation(tables: Tables, seeds: int) -> str:
    spread = " (mean ± standard deviation over the seeds)" if seeds > 1 else ""
    return (
        f"Top-1 in %{spread}, in brackets the difference to FP32 in points; standard error of a cell at most "
        f"{tables.long['stderr'].max():.2f} points. † the one layer of highest error runs one thread. ‡ depthwise "
        "convolutions run one thread."
    )


def _levels(tables: Tables) -> pd.DataFrame:
    records = []
    for _, row in tables.wide.iterrows():
        own = _of(tables.long, row)
        record: dict[str, object] = {"Source": row["source"], "Model": row["model"]}
        for column in shown():
            record[column.label] = _level(own, row, column)
        records.append(record)
    return pd.DataFrame(records)


def _level(own: pd.DataFrame, row: pd.Series, column: Column) -> Entry:
    values = own.loc[own["cell"] == column.key, "top1"]
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    text = f"{values.mean():.2f}{spread}"
    if column in (FLOAT32, A8W8):
        return Entry(text)
    return Entry(text, f"({values.mean() - row[FLOAT32.key]:+.2f})")


def _of(table: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    return table[(table["source"] == row["source"]) & (table["model"] == row["model"])]


def _gains_explanation(seeds: int) -> str:
    test = "a test over all seeds and images" if seeds > 1 else "McNemar's exact test on the same images"
    return (
        f"What recalibration gains, in points, with the p-value of {test}. The A8W8 column is the control: what\n"
        "recalibration gains without NB-SMT. Net: the gain less the control's (tested alike), and what share of the\n"
        "loss to A8W8 that is: of a significant loss the 95 % confidence interval, after the share itself where\n"
        "that is known to within half of itself.\n"
        "p-values are not corrected for their number."
    )


def _gains(tables: Tables) -> pd.DataFrame:
    records = []
    for source, model in by_row(tables.wide):
        record: dict[str, object] = {"Source": source, "Model": model}
        for one in tables.gains:
            if (one.source, one.model) == (source, model):
                record |= _gain(one)
        records.append(record)
    return pd.DataFrame(records)


def _gain(one: Gain) -> dict[str, Entry]:
    """The numbers of one row at one number of threads, by their heading."""
    numbers = {one.pair.group: Entry(f"{one.gain.points:+.2f}", f"(p = {one.gain.p:.2g})")}
    if one.pair in threaded_pairs():
        numbers[f"{one.pair.group} net"] = _net(one)
    return numbers


def _net(one: Gain) -> Entry:
    share = "" if one.recovered is None else f", {one.recovered.in_percent()}"
    return Entry(f"{one.net_gain.points:+.2f}", f"(p = {one.net_gain.p:.2g}){share}")


def _averages(wide: pd.DataFrame) -> str:
    """The sentence about the means over the rows."""
    fastest = fastest_pair()
    first, *others = threaded_pairs()
    lost = [f"{first.group} without recalibration loses {_mean_loss(wide, first):.2f} points"]
    lost += [f"{pair.group} {_mean_loss(wide, pair):.2f}" for pair in others]
    gain = (wide[fastest.recalibrated.key] - wide[fastest.without.key]).mean()
    return f"Averaged over the rows, {', '.join(lost)}; recalibration gains {gain:+.2f} at {fastest.group}."


def _mean_loss(wide: pd.DataFrame, pair: Pair) -> float:
    return float((wide[FLOAT32.key] - wide[pair.without.key]).mean())


def _losses(gains: Sequence[Gain]) -> list[str]:
    """A sentence for each row that does not gain at several threads."""
    notes = []
    for pair in threaded_pairs():
        for one in gains:
            if one.pair == pair and one.gain.points <= 0:
                sure = "significantly" if one.gain.p < LEVEL else "not significantly"
                notes.append(
                    f"{one.source} {one.model} does not gain by recalibration at {pair.group}: "
                    f"{one.gain.points:+.2f} points ({sure}, p = {one.gain.p:.2g})."
                )
    return notes


def _spared(tables: Tables) -> list[str]:
    """A sentence for each row that spares layers; the one of highest error may be another for another seed."""
    long = tables.long
    chosen = long[(long["cell"] == fastest_pair().without.key) & (long["spared"] != "")]
    notes = []
    for _, row in tables.wide.iterrows():
        own = _of(chosen, row)
        if not own.empty:
            seeds = own.groupby("spared", sort=False)["seed"].apply(lambda each: ", ".join(map(str, each)))
            named = [name + (f" (seed {which})" if len(own) > 1 else "") for name, which in seeds.items()]
            notes.append(f"{row['source']} {row['model']} spares {', '.join(named)}.")
    return notes


def _paper(found: Sequence[Comparison], images: int) -> list[Block]:
    if not found:
        return ["None of these rows is in the paper."]
    decided = all(one.agrees is not None for one in found)
    verdict = (
        f"* agrees: FP32 within {FLOAT32_POINTS}, A8W8 within {A8W8_POINTS}, the rest within {LOOSEST} and less "
        "than half of the paper's own gain"
        if decided
        else f"no verdict on {images} images: the paper measured all {IMAGES:,}"
    )
    text = f"Next to the paper: its value: measured - paper ± standard error, in points; {verdict}."
    records: dict[Key, dict[str, object]] = {}
    for one in found:
        record = records.setdefault((one.source, one.model), {"Source": one.source, "Model": one.model})
        star = "*" if one.agrees else ""
        record[one.label] = Entry(f"{one.paper:.2f}: {one.difference:+.2f}{star} ± {one.stderr:.2f}")
    return [text, pd.DataFrame(list(records.values()))]
