"""What recalibration gains in each row of Table 1, with a test over all seeds and images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pandas as pd

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.packed import unpack
from bnrecal.evaluation.recovered import recovered_share
from bnrecal.evaluation.significance import Differences, change, over_seeds

PAIRS = {1: ("a8w8", "a8w8_w"), 2: ("2t_wo", "2t_w"), 4: ("4t_wo", "4t_w")}  # threads -> columns without and with
ORDERED = {"wo": "4t_r_wo", "w": "4t_r_w"}  # without and with recalibration -> column with channels reordered

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
    recovered, net_gain / loss, with the ends of its 95 % confidence interval, recovered_low and recovered_high: empty
    where it is not known well enough (`evaluation.recovered`).

    The tests are those of `evaluation.significance`: with one seed exact over the images (McNemar's for loss and
    gain), with several over seeds and images. No p-value is corrected for the number of rows.
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
    recovered = recovered_share(plain, control, without, with_recal) if threads > 1 else None
    shares = astuple(recovered) if recovered else (None, None, None)
    return {**values, **dict(zip(("recovered", "recovered_low", "recovered_high"), shares, strict=True))}


def orders_table(cells: Sequence[dict[str, Any]]) -> pd.DataFrame | None:
    """What reordering channels gains at four threads, one row a row of the table; None of cells without it.

    Columns: source, model, reorder (the value of `smt.reorder`), seeds, images; gain_wo and gain_w in percentage
    points, without and with recalibration, each with _stderr and _p as in `gains_table`.
    """
    orders = {cell["provenance"]["config"]["smt"]["reorder"] for cell in cells if cell["cell"] in ORDERED.values()}
    if not orders:
        return None
    records = []
    for (source, model), right in right_by_row(cells).items():
        found = {f"gain_{end}": change(right[f"4t_{end}"], right[ORDERED[end]]) for end in ORDERED}
        own: dict[str, Any] = {"source": source, "model": model, "reorder": ", ".join(sorted(orders))}
        own |= {"seeds": len(right["4t_wo"]), "images": len(right["4t_wo"][0])}
        for name, one in found.items():
            own |= {name: one.points, f"{name}_stderr": one.stderr, f"{name}_p": one.p}
        records.append(own)
    return pd.DataFrame(records)


def _difference(before: Sequence[Bools], after: Sequence[Bools]) -> Differences:
    return np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)
