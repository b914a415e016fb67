"""`bnrecal prune`: prune a network by magnitude and retrain it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from bnrecal.commands.cli.schemas import PruneConfig
from bnrecal.config import experiment_part
from bnrecal.experiment.identity import content_key
from bnrecal.experiment.setup import load, on_device
from bnrecal.files import atomic_path
from bnrecal.training.prune import prune_, sparsity_table


def make_pruned(config: PruneConfig, overrides: Sequence[str]) -> Path:  # noqa: ARG001
    """Prune, retrain, check and save; returns the path of the checkpoint."""
    experiment = load(experiment_part(config))
    key = content_key({**experiment.identity, "prune": asdict(config.prune)})
    stem = f"{experiment.model.name}-{experiment.source.name}-p{100 * config.prune.sparsity:g}-{key[:8]}"
    target = Path(config.out) / f"{stem}.pth"
    progress = Path(config.out) / f"{stem}.progress.pt"
    if config.resume and target.exists():
        print(f"{target} (finished earlier)")
        return target
    if not config.resume:
        progress.unlink(missing_ok=True)
    experiment = on_device(experiment)
    masks = prune_(experiment, config.prune, progress)
    network = experiment.model.network
    table = sparsity_table(network, masks)
    with atomic_path(target.with_suffix(".csv")) as path:
        table.to_csv(path, index=False)
    with atomic_path(target) as path:
        torch.save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}, path)
    progress.unlink(missing_ok=True)
    print(table.to_string(index=False, float_format="%.4f"))
    print(f"written to {target}; use it with model.checkpoint={target}")
    return target
