"""What recalibration gains in each row of Table 1, with a test over all seeds and images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.packed import unpack
from bnrecal.evaluation.significance import Differences, change, over_seeds

PAIRS = {1: ("a8w8", "a8w8_w"), 2: ("2t_wo", "2t_w"), 4: ("4t_wo", "4t_w")}  # threads -> columns without and with

Key = tuple[str, str]
Right = Mapping[str, Sequence[Bools]]


def right_by_row(cells: Sequence[dict[str, Any]]) -> dict[Key, dict[str, list[Bools]]]:
    """{(source, model): {column: for each seed bool (images,)}}, in the order of the seeds, float32 included."""
    found: dict[Key, dict[str, list[Bools]]] = defaultdict(lambda: defaultdict(list))
    for cell in sorted(cells, key=lambda cell: int(cell["seed"])):
        own = found[cell["source"], cell["label"]]
        own[cell["cell"]].append(unpack(cell["right"], cell["images"]))
        if "fp32_right" in cell:
            own["fp32"].append(unpack(cell["fp32_right"], cell["images"]))
    return found


def gains_table(cells: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a row of the table and number of threads; 1 is the control. Points are percentage points.

    Columns: source, model, threads, seeds, images; loss to A8W8 without recalibration, gain by recalibration, and
    net_gain, the gain less the control's on the same seeds and images, each with _stderr and _p; control_gain; and
    recovered, net_gain / loss, where the loss is significant (else empty).

    The tests are those of `evaluation.significance`: with one seed McNemar's for loss and gain and Student's for the
    net gain, with several the one over seeds and images. No p-value is corrected for the number of rows.
    """
    records = []
    for (source, model), right in right_by_row(cells).items():
        for threads in PAIRS:
            records.append({"source": source, "model": model, "threads": threads, **_gain(right, threads)})
    return pd.DataFrame(records)


def _gain(right: Right, threads: int) -> dict[str, Any]:
    without, with_recal = (right[name] for name in PAIRS[threads])
    plain, control = (right[name] for name in PAIRS[1])
    loss, gain, control_gain = change(without, plain), change(without, with_recal), change(plain, control)
    net = over_seeds(_difference(without, with_recal) - _difference(plain, control))
    tested = {"loss": loss, "gain": gain, "net_gain": net}
    values: dict[str, Any] = {"seeds": len(without), "images": len(without[0]), "control_gain": control_gain.points}
    for name, found in tested.items():
        values |= {name: found.points, f"{name}_stderr": found.stderr, f"{name}_p": found.p}
    lost = loss.significant and loss.points > 0
    return {**values, "recovered": net.points / loss.points if lost else None}


def _difference(before: Sequence[Bools], after: Sequence[Bools]) -> Differences:
    return np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)
