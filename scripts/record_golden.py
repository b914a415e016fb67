"""Write tests/experiment/golden.json anew: `python scripts/record_golden.py`, when a number is meant to change."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.golden import CELLS, FILE, record  # noqa: E402

from bnrecal.experiment.provenance import versions  # noqa: E402


def main() -> None:
    """Record every cell with the versions that made it."""
    made_with = {key: value for key, value in versions().items() if key != "source"}
    content = {"versions": made_with, "cells": {name: record(*overrides) for name, overrides in CELLS.items()}}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{len(CELLS)} cells written to {FILE}")


if __name__ == "__main__":
    main()
