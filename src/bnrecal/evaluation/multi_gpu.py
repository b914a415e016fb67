"""Evaluation spread over GPUs: one process each, contiguous shares of the images."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bnrecal.data.loader import ImageLoader, Selection
from bnrecal.device import choose_device, with_fitting_batches
from bnrecal.evaluation import process_group
from bnrecal.evaluation.accuracy import Correctness, K, concatenate, evaluate
from bnrecal.evaluation.launch import run_on_ranks
from bnrecal.nbsmt.self_check import check_exact_once


def shard(indices: Sequence[int], rank: int, world: int) -> list[int]:
    """Rank's contiguous share; the shares of ranks 0..world-1, one after the other, are `indices` again."""
    start, stop = (len(indices) * edge // world for edge in (rank, rank + 1))
    return list(indices[start:stop])


def evaluate_on_ranks(
    networks: dict[K, nn.Module], loader: ImageLoader, selection: Selection, batch_size: int, gpus: int, **judging: Any
) -> dict[K, Correctness]:
    """As `evaluate(networks, loader.batches(selection, batch_size), **judging)`, by several processes.

    They are those of the process group where there is one, else `gpus` new ones on this machine. Every rank gets the
    very same networks, so recalibrated statistics are computed once and shared.

    Raises:
        BnrecalError: the first failure of any rank.
    """
    for network in networks.values():
        network.cpu()
    share = (networks, loader, selection, batch_size, torch.backends.cudnn.allow_tf32, judging)
    try:
        if process_group.world() > 1:
            parts = process_group.on_every_rank(_evaluate_share, *share)
        else:
            parts = run_on_ranks(_evaluate_share, min(gpus, len(selection.indices)), *share)
    finally:
        for network in networks.values():
            network.to(loader.device)
    return {name: concatenate([part[name] for part in parts if part]) for name in networks}


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
    """This rank's part of the images; nothing where it has none."""
    own = replace(selection, indices=tuple(shard(selection.indices, rank, world)))
    if not own.indices:
        return {}
    device, beside = loader.device, int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if device.type == "cuda":
        device = choose_device(f"cuda:{int(os.environ.get('LOCAL_RANK', rank)) % torch.cuda.device_count()}", tf32=tf32)
        check_exact_once(device)
    elif rank:  # rank 0 may go on alone
        torch.set_num_threads(max(1, torch.get_num_threads() // beside))
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    here = replace(loader, device=device, beside=beside)
    return with_fitting_batches(
        "evaluation", batch_size, lambda size: evaluate(networks, here.batches(own, size), **judging)
    )
