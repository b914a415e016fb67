"""Results of many runs, sweeps and tables as one tidy table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bnrecal.errors import BnrecalError
from bnrecal.experiment.results import RESULT_FILE, read_json, read_result
from bnrecal.reports.common.tables import flat

CELLS = "cells"  # the folder that Table 1, Figure 1 and the search keep finished measurements in
WHOLE = ("smt.layers", "model.kwargs")  # settings whose keys are the user's: one column, as JSON
SAID = ("model.name", "data.name", "smt.threads", "smt.policy", "recal", "seed")  # a result says them itself
IDENTITY = ["content", "weights_hash", "device"]  # the same numbers, wherever they lie
SORTED = ["model", "data", "threads", "recal", "seed", "content"]


@dataclass(frozen=True)
class Merged:
    """Results below some folders.

    Attributes:
        table: one row per result. Columns: what the result says, the settings and versions that differ between rows,
            `exceptions`, and what identifies it (`content`, `weights_hash`, `device`).
        unreadable: files that should hold a result and do not, with the reason: a run was killed, a disk was full.
    """

    table: pd.DataFrame
    unreadable: list[str]


def merge(folders: Sequence[Path]) -> Merged:
    """One row per result, each experiment once, sorted by model, data, threads and recalibration.

    Finds every `result.json` and every finished model of Table 1 below the folders. Pieces of the figure and of
    searches, temporary files and the errors of failed cells are no results and are passed over.

    Raises:
        BnrecalError: for a folder that is missing or holds no result.
    """
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise BnrecalError(f"{folder} is not a folder")
        before = len(rows)
        for path in _candidates(folder):
            try:
                rows += _rows(path)
            except BnrecalError as error:
                unreadable.append(str(error))
        if len(rows) == before:
            broken = f" that can be read ({'; '.join(unreadable)})" if unreadable else ""
            raise BnrecalError(f"{folder} holds no {RESULT_FILE}{broken}: give a folder that runs or sweeps wrote to")
    # the same experiment may lie in several places, and a row of Table 1 shares its baselines with another
    table = pd.DataFrame(rows).drop_duplicates(IDENTITY).sort_values(SORTED).reset_index(drop=True)
    return Merged(_without_constants(table), unreadable)


def _candidates(folder: Path) -> Iterator[Path]:
    """Files that may hold results; names that begin with a dot are half-written ones."""
    for path in sorted(folder.rglob("*.json")):
        kept = path.name == RESULT_FILE or path.parent.name == CELLS
        if kept and not path.name.startswith("."):
            yield path


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the results in a file."""
    results = _results(path)
    try:
        return [_row(result) for result in results]
    except (KeyError, TypeError, AttributeError) as error:
        raise BnrecalError(f"{path} is damaged or of an earlier version: measure it again, or move it away") from error


def _results(path: Path) -> Sequence[Mapping[str, Any]]:
    """The results in a file: one, those of a model of Table 1, or none."""
    if path.name == RESULT_FILE:
        return [read_result(path)]
    results: list[Mapping[str, Any]] = read_json(path).get("results", [])
    return results


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    source = result["provenance"]
    scalars = {key: value for key, value in result.items() if not isinstance(value, dict | list)}
    for of_table1 in ("cell", "right", "fp32_right"):
        scalars.pop(of_table1, None)
    settings = {}
    for key, value in flat(source["config"], WHOLE).items():
        if key not in SAID:
            settings[key] = json.dumps(value) if isinstance(value, dict | list) else value
    return {
        **scalars,
        "exceptions": "; ".join(f"{name}: {why}" for name, why in result["exceptions"].items()),
        **{key: source[key] for key in IDENTITY},
        **settings,
        **{f"version.{name}": version for name, version in source["versions"].items()},
    }


def _without_constants(table: pd.DataFrame) -> pd.DataFrame:
    """Without the settings and versions that are the same in all rows; these come last."""
    said = max(list(table.columns).index(key) for key in IDENTITY) + 1
    same = [column for column in table.columns[said:] if table[column].nunique(dropna=False) == 1]
    return table.drop(columns=same)
