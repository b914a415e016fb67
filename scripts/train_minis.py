"""Trains the mini networks of `data=glyphs` and writes the checkpoints that the package ships.

    python scripts/train_minis.py                          # every network whose checkpoint is missing
    python scripts/train_minis.py --again --models resnet18
    python scripts/train_minis.py --folder /tmp/mine       # beside the shipped ones, to compare

A network is written as soon as it is trained, so a run that was stopped goes on with the next one. One thread each;
the same machine gives the same weights.

One recipe for all: SGD with a one-cycle learning rate after a warm start. The first epoch shows easy glyphs: large, of
good contrast, on a plain ground. Without it the deep networks stay at chance for several epochs of the real task, each
for another number of them.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from bnrecal.data.base import Split
from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING, GlyphDataset, GlyphSource
from bnrecal.files import atomic_path
from bnrecal.models.mini import (
    ARCHITECTURES,
    CHECKPOINT_FOLDER,
    INDEX,
    Checkpoint,
    build_mini,
    read_index,
)
from bnrecal.models.weights import file_hash


@dataclass(frozen=True)
class Recipe:
    """One setting for every network.

    Attributes:
        easy_epochs: how many of the epochs, at the start, show easy glyphs.
        learning_rate: at the peak of the cycle, reached after `warm_up` of all steps.
    """

    epochs: int = 5
    easy_epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.1
    warm_up: float = 0.08
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0


def train_mini(
    name: str, source: GlyphSource, recipe: Recipe, report: Callable[[int, float], None] | None = None
) -> nn.Module:
    """A mini network trained on the whole training split, in eval mode.

    The same machine, thread count and arguments give the same weights. Seeds the global torch generator.

    Args:
        report: called after each epoch with its number, from 1, and its mean training loss.
    """
    torch.manual_seed(recipe.seed)
    network = build_mini(name).train().to(memory_format=torch.channels_last)
    _silence_residual_branches(network)
    hard = _everything(source)
    easy = _everything(easy_version(source))
    steps = len(hard) // recipe.batch_size
    optimizer, schedule = _optimizer(network, recipe, steps)
    for epoch in range(1, recipe.epochs + 1):
        data = easy if epoch <= recipe.easy_epochs else hard
        order = torch.randperm(len(data)).tolist()
        total = 0.0
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            loss = _loss(network, data, chosen)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        if report is not None:
            report(epoch, total / steps)
    return network.to(memory_format=torch.contiguous_format).eval()


def easy_version(source: GlyphSource) -> GlyphSource:
    """The same training labels and glyphs without distractors, near the centre, of high contrast."""
    easy = replace(source.difficulty, contrast=(0.5, 1.0), distractors=0, shift=1.5, noise=0.01)
    return GlyphSource(source.seed, source.size("train"), difficulty=easy)


@torch.no_grad()
def top1(network: nn.Module, source: GlyphSource, batch_size: int = 250) -> float:
    """Percent of the held-out images that `network`, in eval mode, gets right."""
    data = _everything(source, "val")
    right = 0
    for start in range(0, len(data), batch_size):
        images, labels = data.batch(range(start, min(start + batch_size, len(data))))
        right += int((network(images).argmax(1) == labels).sum())
    return 100 * right / len(data)


def _everything(source: GlyphSource, split: Split = "train") -> GlyphDataset:
    data = source.dataset(split, range(source.size(split)), GLYPH_PREPROCESSING, augment=split == "train")
    assert isinstance(data, GlyphDataset)
    return data


def _silence_residual_branches(network: nn.Module) -> None:
    """Residual networks start as their skip connections (gamma = 0 at the end of each branch): they learn sooner."""
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)
        elif isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)


def _optimizer(
    network: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.OneCycleLR]:
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=recipe.epochs * steps,
        pct_start=recipe.warm_up,
        cycle_momentum=False,
    )
    return optimizer, schedule


def _loss(network: nn.Module, data: GlyphDataset, chosen: Sequence[int]) -> Tensor:
    """Cross-entropy in float32 of a forward pass in bfloat16."""
    images, labels = data.batch(chosen)
    # Depthwise convolutions are slower in bfloat16, all others faster.
    depthwise = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())
    with torch.autocast("cpu", torch.bfloat16, enabled=not depthwise):
        logits = network(images.to(memory_format=torch.channels_last))
    return F.cross_entropy(logits.float(), labels)


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
    with atomic_path(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({one: asdict(index[one]) for one in sorted(index)}, indent=2) + "\n")
    return path


if __name__ == "__main__":
    main()
