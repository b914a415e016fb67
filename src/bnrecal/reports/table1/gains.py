"""Gains of recalibration in each row of Table 1, tested over all seeds and images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.packed import unpack
from bnrecal.evaluation.recovered import Recovered, recovered_share
from bnrecal.evaluation.significance import Difference, Differences, change, over_seeds
from bnrecal.reports.table1.columns import A8W8, CONTROL, FLOAT32, Pair, pairs
from bnrecal.reports.table1.records import CellRecord

Key = tuple[str, str]  # source and model of a row
Right = Mapping[str, Sequence[Bools]]  # by the key of a column, for each seed bool (images,)


@dataclass(frozen=True)
class Gain:
    """Losses and gains of one row at one number of threads, in percentage points.

    Attributes:
        seeds, images: how many were measured.
        control_gain: what recalibration gains A8W8.
        loss: to A8W8, without recalibration.
        gain: by recalibration.
        net_gain: the gain less the control's, on the same seeds and images.
        recovered: net_gain / loss with its confidence interval (`evaluation.recovered`); None where the loss is not
            significant, and of the control.
    """

    source: str
    model: str
    pair: Pair
    seeds: int
    images: int
    control_gain: float
    loss: Difference
    gain: Difference
    net_gain: Difference
    recovered: Recovered | None


def right_by_row(cells: Sequence[CellRecord]) -> dict[Key, dict[str, list[Bools]]]:
    """{(source, model): {column: for each seed bool (images,)}}, in the order of the seeds, float32 included."""
    found: dict[Key, dict[str, list[Bools]]] = defaultdict(lambda: defaultdict(list))
    for cell in sorted(cells, key=lambda cell: int(cell["seed"])):
        own = found[cell["source"], cell["label"]]
        own[cell["cell"]].append(unpack(cell["right"], cell["images"]))
        if "fp32_right" in cell:
            own[FLOAT32.key].append(unpack(cell["fp32_right"], cell["images"]))
    return found


def gains(cells: Sequence[CellRecord]) -> list[Gain]:
    """Gains of each row, pair by pair; the first pair is the control.

    The tests are those of `evaluation.significance`: with one seed exact over the images (McNemar's for loss and
    gain), with several over seeds and images. No p-value is corrected for the number of rows.
    """
    return [_gain(key, right, pair) for key, right in right_by_row(cells).items() for pair in pairs()]


def _gain(key: Key, right: Right, pair: Pair) -> Gain:
    without = right[pair.without.key]
    recalibrated = right[pair.recalibrated.key]
    plain = right[A8W8.key]
    control = right[CONTROL.key]
    loss = change(without, plain)
    net = over_seeds(_difference(without, recalibrated) - _difference(plain, control))
    threaded = pair.threads > 1
    return Gain(
        source=key[0],
        model=key[1],
        pair=pair,
        seeds=len(without),
        images=len(without[0]),
        control_gain=change(plain, control).points,
        loss=loss,
        gain=change(without, recalibrated),
        net_gain=net,
        recovered=recovered_share(plain, control, without, recalibrated) if threaded else None,
    )


def _difference(before: Sequence[Bools], after: Sequence[Bools]) -> Differences:
    return np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)


def gains_table(found: Sequence[Gain]) -> pd.DataFrame:
    """The frame of `table1_gains.csv`: one row a `Gain`.

    Columns: source, model, threads, seeds, images, control_gain; loss, gain and net_gain, each with _stderr and _p;
    recovered with the ends of its 95 % confidence interval, recovered_low and recovered_high.
    """
    records = []
    for one in found:
        record: dict[str, object] = {
            "source": one.source,
            "model": one.model,
            "threads": one.pair.threads,
            "seeds": one.seeds,
            "images": one.images,
            "control_gain": one.control_gain,
        }
        for name, tested in (("loss", one.loss), ("gain", one.gain), ("net_gain", one.net_gain)):
            record[name] = tested.points
            record[f"{name}_stderr"] = tested.stderr
            record[f"{name}_p"] = tested.p
        record["recovered"] = one.recovered.share if one.recovered else None
        record["recovered_low"] = one.recovered.low if one.recovered else None
        record["recovered_high"] = one.recovered.high if one.recovered else None
        records.append(record)
    return pd.DataFrame(records)
