"""The paper's Table 1 beside what was measured, and when the two are said to agree."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from bnrecal.evaluation.significance import over_seeds
from bnrecal.reports.table1_gains import right_by_row

IMAGES = 50_000  # the paper's numbers are for the whole validation set of ILSVRC 2012
FP32, A8W8 = 0.1, 0.2  # points: the same weights and images, besides 2,048 images of calibration for A8W8
LOOSEST = 0.5  # points, at 2 and 4 threads
LAST_BIT = 1e-9  # points


def paper_table() -> pd.DataFrame:
    """The paper's Table 1 in the layout of `table1.csv` (top-1, %)."""
    with (files("bnrecal.reports") / "paper_table1.csv").open() as file:
        return pd.read_csv(file)


def tolerance(quantity: str, paper_gain: float) -> float:
    """How far from the paper a quantity may lie and still agree, in points.

    At several threads less than half of what the paper gains by recalibration (the half itself is too far), so that no
    number agrees both with the one without and with the one with, nor no gain with its gain.

    Args:
        quantity: a column of the table, or "2t_gain" or "4t_gain".
        paper_gain: the paper's gain with the same number of threads.
    """
    return {"fp32": FP32, "a8w8": A8W8}.get(quantity, min(LOOSEST, abs(paper_gain) / 2))


def compare(cells: Sequence[dict[str, Any]], wide: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """One row a quantity of each row that the paper has: the six levels, and the gains at 2 and 4 threads.

    Columns: source, model, quantity, measured (mean over seeds), stderr (over seeds and images), paper, difference,
    tolerance, and agrees: whether the difference is within the tolerance; empty unless all 50,000
    validation images were measured, for fewer have a sampling error of their own.
    """
    right, whole = right_by_row(cells), int(gains["images"].min()) == IMAGES
    records = []
    for _, printed in paper_table().iterrows():
        key = (printed["source"], printed["model"])
        own = wide[(wide["source"] == key[0]) & (wide["model"] == key[1])]
        if own.empty:
            continue  # not measured
        for name in printed.index.drop(["source", "model"]):
            stderr = over_seeds(np.array(right[key][name], dtype=np.float64)).stderr
            records.append(
                _record(key, name, own[name].item(), stderr, printed[name], _paper_gain(printed, name), whole)
            )
        for threads in (2, 4):
            gain = _gain_of(gains, key, threads)
            paper, name = _paper_gain(printed, f"{threads}t"), f"{threads}t_gain"
            records.append(_record(key, name, gain["gain"], gain["gain_stderr"], paper, paper, whole))
    columns = ["source", "model", "quantity", "measured", "stderr", "paper", "difference", "tolerance", "agrees"]
    return pd.DataFrame(records, columns=columns)


def _gain_of(gains: pd.DataFrame, key: tuple[str, str], threads: int) -> "pd.Series[Any]":
    chosen = (gains["source"] == key[0]) & (gains["model"] == key[1]) & (gains["threads"] == threads)
    return gains[chosen].iloc[0]


def _paper_gain(printed: "pd.Series[Any]", name: str) -> float:
    prefix = name.split("_")[0]
    return float(printed[f"{prefix}_w"] - printed[f"{prefix}_wo"]) if prefix in ("2t", "4t") else 0.0


def _record(
    key: tuple[str, str], quantity: str, measured: float, stderr: float, paper: float, paper_gain: float, whole: bool
) -> dict[str, Any]:
    allowed, difference = tolerance(quantity, paper_gain), measured - paper
    return {
        "source": key[0],
        "model": key[1],
        "quantity": quantity,
        "measured": measured,
        "stderr": stderr,
        "paper": paper,
        "difference": difference,
        "tolerance": allowed,
        "agrees": _agrees(quantity, abs(difference), paper_gain) if whole else None,
    }


def _agrees(quantity: str, off: float, paper_gain: float) -> bool:
    # printed to two digits: a difference of exactly the tolerance must not fail by its last bit, nor one of exactly
    # half of the gain pass by it
    half_the_gain = quantity not in ("fp32", "a8w8") and off >= abs(paper_gain) / 2 - LAST_BIT
    return bool(off <= tolerance(quantity, paper_gain) + LAST_BIT) and not half_the_gain
