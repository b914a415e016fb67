"""Draw what happened in each layer: `python -m bnrecal.commands.plot FOLDER`."""

import argparse
from pathlib import Path

from bnrecal.commands.common import one_line_errors
from bnrecal.reports.layers import draw_folder


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="bnrecal plot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="holds layers.csv and batchnorm.csv of an experiment")
    arguments = parser.parse_args()
    with one_line_errors():
        for path in draw_folder(arguments.folder):
            print(f"written to {path}")


if __name__ == "__main__":
    main()
