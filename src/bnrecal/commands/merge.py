"""Merge results into one tidy CSV: `python -m bnrecal.commands.merge FOLDER... [--out FILE]`."""

import argparse
import sys
from pathlib import Path

from bnrecal.commands.common import one_line_errors
from bnrecal.files import atomic_path
from bnrecal.reports.merge import merge


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bnrecal.commands.merge", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, help="the CSV file; without it the table is printed")
    arguments = parser.parse_args()
    with one_line_errors():
        merged = merge(arguments.folders)
        for message in merged.unreadable:
            print(f"bnrecal: left out: {message}", file=sys.stderr)
        if arguments.out is None:
            merged.table.to_csv(sys.stdout, index=False)
            return
        with atomic_path(arguments.out) as path:
            merged.table.to_csv(path, index=False)
        print(f"{len(merged.table)} results written to {arguments.out}")


if __name__ == "__main__":
    main()
