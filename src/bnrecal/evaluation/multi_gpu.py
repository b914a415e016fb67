"""Evaluation spread over GPUs: one process each, contiguous shares of the images."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bnrecal.data.loader import ImageLoader
from bnrecal.data.selection import Selection
from bnrecal.device import choose_device, tf32_is_on, with_fitting_batches
from bnrecal.evaluation import process_group
from bnrecal.evaluation.accuracy import Correctness, K, concatenate, evaluate
from bnrecal.evaluation.ranks import run_on_ranks
from bnrecal.nbsmt.analysis.self_check import check_exact_once


def shard(selection: Selection, rank: int, world: int) -> Selection:
    """Return a rank's contiguous share; the shares of ranks 0..world-1, one after the other, are all images again."""
    indices = selection.indices
    start = len(indices) * rank // world
    stop = len(indices) * (rank + 1) // world
    return replace(selection, indices=indices[start:stop], start=start, whole=indices)


def evaluate_on_ranks(
    networks: dict[K, nn.Module], loader: ImageLoader, selection: Selection, batch_size: int, gpus: int, **judging: Any
) -> dict[K, Correctness]:
    """Evaluate as `evaluate(networks, loader.batches(selection, batch_size), **judging)` does, by several processes.

    They are those of the process group where there is one, else `gpus` new ones on this machine. Every rank gets the
    very same networks, so recalibrated statistics are computed once and shared.

    Raises:
        BnrecalError: the first failure of any rank.
    """
    for network in networks.values():
        network.cpu()
    share = (networks, loader, selection, batch_size, tf32_is_on(), judging)
    try:
        if process_group.world() > 1:
            parts = process_group.on_every_rank(_evaluate_share, *share)
        else:
            parts = run_on_ranks(_evaluate_share, min(gpus, len(selection.indices)), *share)
    finally:
        for network in networks.values():
            network.to(loader.device)
    parts = [part for part in parts if part]  # a rank without images has none
    return {name: _joined(name, parts) for name in networks}


def _joined(name: K, parts: Sequence[dict[K, Correctness]]) -> Correctness:
    return concatenate([part[name] for part in parts])


def _evaluate_share(
    rank: int,
    world: int,
    networks: dict[K, nn.Module],
    loader: ImageLoader,
    selection: Selection,
    batch_size: int,
    tf32: bool,
    judging: dict[str, Any],
) -> dict[K, Correctness]:
    """Evaluate this rank's share of the images; nothing where it has none."""
    own = shard(selection, rank, world)
    if not own.indices:
        return {}
    started_by_others = process_group.world() > 1  # torchrun or Slurm, perhaps on several machines
    local_rank = int(os.environ.get("LOCAL_RANK", rank)) if started_by_others else rank
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if started_by_others else world
    device = loader.device
    if device.type == "cuda":
        device = choose_device(f"cuda:{local_rank % torch.cuda.device_count()}", tf32=tf32)
        check_exact_once(device)
    elif rank and started_by_others:  # rank 0 goes on alone; processes of `run_on_ranks` have their share of the cores
        torch.set_num_threads(max(1, torch.get_num_threads() // beside))
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    here = replace(loader, device=device, beside=beside)
    return with_fitting_batches(
        "evaluation", batch_size, lambda size: evaluate(networks, here.batches(own, size), **judging)
    )
