"""Training of the mini networks: SGD, Nesterov momentum and a one-cycle learning rate, the same for each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bnrecal.data.glyphs import GLYPH_PREPROCESSING, GlyphDataset, GlyphSource
from bnrecal.models.mini import build_mini


@dataclass(frozen=True)
class Recipe:
    """One setting for every network."""

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.1  # at the peak of the cycle
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
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
    size = source.size("train")
    data = source.dataset("train", range(size), GLYPH_PREPROCESSING, augment=True)
    assert isinstance(data, GlyphDataset)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    batches = size // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * batches, pct_start=0.2
    )
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        order = torch.randperm(size).tolist()
        for start in range(0, batches * recipe.batch_size, recipe.batch_size):
            images, labels = data.batch(order[start : start + recipe.batch_size])
            logits = network(images.to(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if report is not None:
            report(epoch, total / batches)
    return network.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def top1(network: nn.Module, source: GlyphSource, batch_size: int = 250) -> float:
    """Percent of the held-out images that `network`, in eval mode, gets right."""
    size = source.size("val")
    data = source.dataset("val", range(size), GLYPH_PREPROCESSING)
    assert isinstance(data, GlyphDataset)
    right = 0
    for start in range(0, size, batch_size):
        images, labels = data.batch(range(start, min(start + batch_size, size)))
        right += int((network(images).argmax(1) == labels).sum())
    return 100 * right / size
