"""Merge results into one tidy CSV: `python -m bnrecal.reports.merge FOLDER... [--out FILE]`.

Finds every `result.json` of `python -m bnrecal`, and every cell of Table 1, below the folders; one row a result.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.errors import BnrecalError
from bnrecal.experiment.results import RESULT_FILE, read_json, read_result

# The settings of an experiment that tell rows apart, besides what a result says of itself.
SETTINGS = (
    "quant.act_range",
    "smt.sparsity",
    "smt.rounding",
    "smt.saturate",
    "smt.layers",
    "calibration.images",
    "recalibration.method",
    "recalibration.images",
    "recalibration.batch_size",
    "recalibration.momentum",
    "recalibration.augment",
)


def merge(folders: Sequence[Path]) -> pd.DataFrame:
    """One row a result, each experiment once, sorted by model, data, threads and recalibration.

    Raises:
        BnrecalError: for a folder that is missing or holds no result, or a file that is none.
    """
    rows = []
    for folder in folders:
        if not folder.is_dir():
            raise BnrecalError(f"{folder} is not a folder")
        found = [_row(result) for result in _results(folder)]
        if not found:
            raise BnrecalError(f"{folder} holds no {RESULT_FILE}: give a folder that runs or sweeps wrote to")
        rows += found
    # the same experiment may lie in several places, and a row of Table 1 shares its baselines with another
    table = pd.DataFrame(rows).drop_duplicates("cell")
    return table.sort_values(["model", "data", "threads", "recal", "seed", "cell"]).reset_index(drop=True)


def _results(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob(RESULT_FILE)):
        yield read_result(path)
    for path in sorted(folder.rglob("cells/*.json")):
        yield from read_json(path)["results"]


def _row(result: dict[str, Any]) -> dict[str, Any]:
    source = result["provenance"]
    own = {key: value for key, value in result.items() if not isinstance(value, dict)}
    settings = {key: _setting(source["config"], key.split(".")) for key in SETTINGS}
    exceptions = "; ".join(f"{name}: {why}" for name, why in result["exceptions"].items())
    return {
        **own,
        **settings,
        "exceptions": exceptions,
        "cell": source["cell"],
        "weights_hash": source["weights_hash"],
        "device": source["device"],
        **{f"version.{name}": version for name, version in source["versions"].items()},
    }


def _setting(config: dict[str, Any], path: Iterable[str]) -> Any:
    value: Any = config
    for key in path:
        value = value[key]
    return value
