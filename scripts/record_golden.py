"""Write down anew what tests compare with: `python scripts/record_golden.py`, when a number is meant to change.

tests/experiment/golden.json holds answers of networks, tests/reports/recorded.json what reports show of made-up results
(`python scripts/record_golden.py reports` writes that alone).
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import recorded  # noqa: E402
from helpers.golden import CELLS, FILE, record  # noqa: E402
from helpers.table1_cells import PAPERS  # noqa: E402

import bnrecal.reports.table1.columns  # noqa: E402
from bnrecal.experiment.provenance import versions  # noqa: E402


def main() -> None:
    """Record the reports, and every cell with the versions that made it."""
    bnrecal.reports.table1.columns.COLUMNS = PAPERS
    shown = {name: recorded.report(name) for name in recorded.REPORTS}
    recorded.FILE.write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(shown)} reports written to {recorded.FILE}")
    if sys.argv[1:] == ["reports"]:
        return
    made_with = {key: value for key, value in versions().items() if key != "source"}
    content = {"versions": made_with, "cells": {name: record(*overrides) for name, overrides in CELLS.items()}}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{len(CELLS)} cells written to {FILE}")


if __name__ == "__main__":
    main()
