"""`bnrecal plot`: what happened in each layer of a run."""

from argparse import Namespace

from bnrecal.reports.layers import draw_folder


def plot_folder(arguments: Namespace) -> None:
    """Draw `arguments.folder`, whose layers.csv and batchnorm.csv a run wrote."""
    for path in draw_folder(arguments.folder):
        print(f"written to {path}")
