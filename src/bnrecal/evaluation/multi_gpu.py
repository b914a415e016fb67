"""Evaluation spread over the GPUs of one machine: one process each, contiguous shares of the images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bnrecal.data.loader import ImageLoader, Selection
from bnrecal.device import choose_device
from bnrecal.evaluation.accuracy import Correctness, K, concatenate, evaluate
from bnrecal.evaluation.processes import run_on_ranks


def shard(indices: Sequence[int], rank: int, world: int) -> list[int]:
    """Rank's contiguous share; the shares of ranks 0..world-1, one after the other, are `indices` again."""
    start, stop = (len(indices) * edge // world for edge in (rank, rank + 1))
    return list(indices[start:stop])


def evaluate_on_ranks(
    networks: dict[K, nn.Module], loader: ImageLoader, selection: Selection, batch_size: int, world: int, **judging: Any
) -> dict[K, Correctness]:
    """As `evaluate(networks, loader.batches(selection, batch_size), **judging)`, by `world` processes.

    Every rank gets the very same networks, so recalibrated statistics are computed once and shared.

    Raises:
        BnrecalError: the first failure of any rank.
    """
    world = min(world, len(selection.indices))
    for network in networks.values():
        network.cpu()
    try:
        parts = run_on_ranks(_evaluate_share, world, networks, loader, selection, batch_size, judging)
    finally:
        for network in networks.values():
            network.to(loader.device)
    return {name: concatenate([part[name] for part in parts]) for name in networks}


def _evaluate_share(
    rank: int,
    world: int,
    networks: dict[K, nn.Module],
    loader: ImageLoader,
    selection: Selection,
    batch_size: int,
    judging: dict[str, Any],
) -> dict[K, Correctness]:
    device = loader.device
    if device.type == "cuda":
        device = choose_device(f"cuda:{rank}")
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    share = replace(selection, indices=tuple(shard(selection.indices, rank, world)))
    return evaluate(networks, replace(loader, device=device).batches(share, batch_size), **judging)
