"""`bnrecal merge`: results as one tidy CSV."""

import sys
from argparse import Namespace

from bnrecal.files import atomic_path
from bnrecal.reports.merge import merge


def merge_folders(arguments: Namespace) -> None:
    """Print the table of `arguments.folders`, or write it to `arguments.out`."""
    merged = merge(arguments.folders)
    for message in merged.unreadable:
        print(f"bnrecal: left out: {message}", file=sys.stderr)
    if arguments.out is None:
        merged.table.to_csv(sys.stdout, index=False)
        return
    with atomic_path(arguments.out) as path:
        merged.table.to_csv(path, index=False)
    print(f"{len(merged.table)} results written to {arguments.out}")
