"""Prune a network by magnitude and retrain it, in steps (paper section 3; figures of the authors' recipe).

Weights of every quantized convolution (all but the first) are set to zero, the smallest of each layer first; after each
step the whole network is retrained, the zeros staying zero. Progress is written after every epoch.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from bnrecal.data.loader import check_batch
from bnrecal.data.selection import Selection, choose
from bnrecal.errors import BnrecalError
from bnrecal.experiment.setup import Experiment, conv_infos
from bnrecal.files import atomic_path
from bnrecal.quantization.intercept import conv_modules
from bnrecal.quantization.layer_plan import FLOAT, plan_threads
from bnrecal.quantization.qparams import quantize_weight
from bnrecal.seeds import derive_seed
from bnrecal.training.config import Pruning

FEW_IMAGES = 64  # training images that show which convolutions run, and in which order


def levels(sparsity: float, step: float) -> list[float]:
    """The sparsity after each step: step, 2 * step, ..., and at last `sparsity` itself."""
    below = [step * count for count in range(1, int(sparsity / step) + 1) if step * count < sparsity - 1e-9]
    return [*below, sparsity]


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Return which weights stay: all but the round(sparsity * n) of smallest magnitude (of equal ones, the first)."""
    keep = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    smallest = weight.detach().abs().flatten().argsort(stable=True)
    keep[smallest[: round(sparsity * weight.numel())]] = False
    return keep.view(weight.shape)


def prunable(experiment: Experiment) -> dict[str, nn.Parameter]:
    """The weights of the convolutions that an experiment quantizes, by layer."""
    few = replace(experiment.calibration, indices=experiment.calibration.indices[:FEW_IMAGES])
    infos = conv_infos(replace(experiment, calibration=few))
    plans = plan_threads(infos, 1, {}, experiment.config.quant.skip)
    names = [plan.name for plan in plans if plan.threads != FLOAT]
    if not names:
        raise BnrecalError(f"{experiment.model.name} has no convolution to prune besides the first")
    parameters = dict(experiment.model.network.named_parameters(remove_duplicate=False))
    return {name: parameters[f"{name}.weight"] for name in names}


def prune_(experiment: Experiment, how: Pruning, progress: Path) -> dict[str, Tensor]:
    """Prune and retrain the network in place; `progress` is written after each epoch, and read first if it exists.

    Every epoch's order, augmentation and dropout follow from (seed, step, epoch) alone, so that nothing but weights,
    optimizer and masks has to be kept.

    Returns:
        Which weights stayed, by layer.
    """
    weights = prunable(experiment)
    masks: dict[str, Tensor] = {}
    done, kept_optimizer = (0, 0), None
    if progress.exists():
        done, masks, kept_optimizer = _read_progress(experiment.model.network, progress)
    for step, level in enumerate(levels(how.sparsity, how.step)):
        if step < done[0]:
            continue
        optimizer = _optimizer(experiment.model.network, how)
        if step == done[0] and done[1] > 0:
            assert kept_optimizer is not None
            optimizer.load_state_dict(kept_optimizer)
        else:
            masks = {name: magnitude_mask(weight, level) for name, weight in weights.items()}
            _apply(weights, masks)
        for epoch in range(done[1] if step == done[0] else 0, how.epochs):
            loss = _train_epoch(experiment, how, optimizer, weights, masks, (step, epoch))
            tqdm.write(f"sparsity {level:.0%}, epoch {epoch + 1} of {how.epochs}: training loss {loss:.4f}")
            _write_progress(experiment.model.network, progress, (step, epoch + 1), masks, optimizer)
    return masks


def _optimizer(network: nn.Module, how: Pruning) -> torch.optim.SGD:
    return torch.optim.SGD(
        network.parameters(), lr=how.learning_rate, momentum=how.momentum, weight_decay=how.weight_decay
    )


@torch.no_grad()
def _apply(weights: dict[str, nn.Parameter], masks: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0.0)


def _train_epoch(
    experiment: Experiment,
    how: Pruning,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, nn.Parameter],
    masks: dict[str, Tensor],
    place: tuple[int, int],
) -> float:
    """One pass over the training images; returns the mean loss. A last, incomplete batch is left out."""
    network = experiment.model.network.train()
    offset = experiment.model.label_offset
    images = _order(experiment, how, place)
    seed = derive_seed(experiment.config.seed, "pruning", *place)
    total, batches = 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for x, labels in experiment.loader.batches(images, how.batch_size, augment=True, seed=seed):
            loss = F.cross_entropy(network(x), labels + offset, ignore_index=offset - 1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _apply(weights, masks)
            total = total + float(loss.detach())
            batches = batches + 1
    network.eval()
    return total / batches


def _order(experiment: Experiment, how: Pruning, place: tuple[int, int]) -> Selection:
    size = experiment.source.size("train")
    shuffled = choose(experiment.source, "train", f"pruning {place}", size, experiment.config.seed)
    check_batch("prune.batch_size", how.batch_size, shuffled)
    return replace(shuffled, label="retraining", indices=shuffled.indices[: size // how.batch_size * how.batch_size])


def _write_progress(
    network: nn.Module, path: Path, done: tuple[int, int], masks: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    content = {"network": network.state_dict(), "done": done, "masks": masks, "optimizer": optimizer.state_dict()}
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _read_progress(network: nn.Module, path: Path) -> tuple[tuple[int, int], dict[str, Tensor], dict[str, Any]]:
    device = next(network.parameters()).device
    content = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(content["network"])
    return tuple(content["done"]), content["masks"], content["optimizer"]


def sparsity_table(network: nn.Module, masks: dict[str, Tensor]) -> pd.DataFrame:
    """Return the zeros of each pruned layer, before and after quantization.

    Columns: name, weights, pruned (share of weights taken out), zero (share of exact zeros in float32),
    quantized_zero (share of zeros in int8: rounding adds the smallest of those that stayed).

    Raises:
        RuntimeError: if a weight that was taken out is not zero, in float32 or after quantization.
    """
    convs = conv_modules(network)
    rows = []
    for name, mask in masks.items():
        weight = convs[name].weight.detach()
        levels_, _ = quantize_weight(weight)
        if bool(weight[~mask].any()) or bool(levels_[~mask].any()):
            raise RuntimeError(f"{name}: a pruned weight is not zero")
        shares = {"pruned": ~mask, "zero": weight == 0, "quantized_zero": levels_ == 0}
        own = {key: float(where.double().mean()) for key, where in shares.items()}
        rows.append({"name": name, "weights": weight.numel(), **own})
    return pd.DataFrame(rows)
