"""Trains the mini networks of `data=glyphs` and writes the checkpoints that the package ships.

    python scripts/train_minis.py                          # every network whose checkpoint is missing
    python scripts/train_minis.py --again --models resnet18
    python scripts/train_minis.py --folder /tmp/mine       # beside the shipped ones, to compare

A network is written as soon as it is trained, so a run that was stopped goes on with the next one. One thread each;
the same machine gives the same weights.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.files import atomic_path
from bnrecal.models.mini import (
    ARCHITECTURES,
    CHECKPOINT_FOLDER,
    Checkpoint,
    build_mini,
    read_index,
    write_index,
)
from bnrecal.models.weights import file_hash
from bnrecal.training.train_mini import Recipe, top1, train_mini


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--folder", type=Path, default=CHECKPOINT_FOLDER)
    parser.add_argument("--epochs", type=int, default=Recipe().epochs)
    parser.add_argument("--again", action="store_true", help="train even where a checkpoint is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(epochs=options.epochs)
    source = GlyphSource(held_out="dev")
    print(recipe, source.difficulty, sep="\n", flush=True)
    rows = []
    for name in options.models:
        known = read_index(options.folder).get(name)
        if known and not options.again and file_hash(options.folder / known.file) == known.sha256:
            print(f"{name}: already trained, {known.file}", flush=True)
            continue
        rows.append(train_one(name, source, recipe, options.folder))
    if rows:
        print("\n| network | parameters | file, MB | seconds | top-1 on dev, % |\n|---|---|---|---|---|")
        print("\n".join(rows))


def train_one(name: str, source: GlyphSource, recipe: Recipe, folder: Path) -> str:
    """Trains one network, ships it, and gives its row of the table."""
    start = time.perf_counter()

    def report(epoch: int, loss: float) -> None:
        seconds = time.perf_counter() - start
        print(f"{name}: epoch {epoch} of {recipe.epochs}, loss {loss:.3f}, {seconds:.0f} s", flush=True)

    network = train_mini(name, source, recipe, report)
    seconds = time.perf_counter() - start
    path = ship(name, network, folder)
    size = sum(parameter.numel() for parameter in build_mini(name).parameters())
    accuracy = top1(network, source)
    return f"| {name} | {size:,} | {path.stat().st_size / 1e6:.2f} | {seconds:.0f} | {accuracy:.2f} |"


def ship(name: str, network: nn.Module, folder: Path) -> Path:
    """Writes the checkpoint and its line in the folder's index."""
    path = folder / f"{name}.pth"
    with atomic_path(path) as temporary:
        torch.save(network.state_dict(), temporary)
    index = read_index(folder)
    index[name] = Checkpoint(architecture=name, file=path.name, sha256=file_hash(path))
    write_index(folder, index)
    return path


if __name__ == "__main__":
    main()
