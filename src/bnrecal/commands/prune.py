"""Prune a network by magnitude: `python -m bnrecal.training.prune model=resnet18 prune.sparsity=0.4 [key=value ...]`.

Weights of every quantized convolution (all but the first) are set to zero, the smallest of each layer first, in steps
of `prune.step`; after each step the whole network is retrained, the zeros staying zero. Progress is kept after every
epoch: started again after an interruption, the command goes on and ends in the same weights. The checkpoint goes to
`out`; use it with model.checkpoint=PATH.

  prune.sparsity=0.4 prune.step=0.1       share of each layer's weights that ends at zero, and that of one step
  prune.epochs=5 prune.learning_rate=1e-4 prune.weight_decay=1e-4 prune.momentum=0.9 prune.batch_size=128
  out=FOLDER                              default outputs/prune
  data=..., model.checkpoint=..., seed=...   as for `python -m bnrecal`
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from bnrecal.commands.common import run_command
from bnrecal.config import Config, experiment_part, parse
from bnrecal.errors import BnrecalError
from bnrecal.experiment.provenance import cell_key, content_hash
from bnrecal.experiment.setup import load
from bnrecal.files import atomic_path
from bnrecal.training.prune import Pruning, prune_, sparsity_table


@dataclass
class PruneConfig(Config):
    """An experiment's settings and the pruning's own."""

    prune: Pruning = field(default_factory=Pruning)
    out: str = "outputs/prune"


ConfigStore.instance().store(name="prune_schema", node=PruneConfig)


def main() -> None:
    """The command."""
    run_command("prune", make_pruned, __doc__)


def make_pruned(composed: DictConfig, overrides: Sequence[str]) -> Path:  # noqa: ARG001
    """Prune, retrain, check and save; returns the path of the checkpoint."""
    config = parse_prune(composed)
    setup = load(experiment_part(config))
    key = content_hash({"cell": cell_key(setup.config), "prune": asdict(config.prune), "w": setup.model.weights_hash})
    stem = f"{setup.model.name}-{setup.source.name}-p{100 * config.prune.sparsity:g}-{key[:8]}"
    target, progress = Path(config.out) / f"{stem}.pth", Path(config.out) / f"{stem}.progress.pt"
    if config.resume and target.exists():
        print(f"{target} (finished earlier)")
        return target
    if not config.resume:
        progress.unlink(missing_ok=True)
    masks = prune_(setup, config.prune, progress)
    table = sparsity_table(setup.model.network, masks)
    with atomic_path(target.with_suffix(".csv")) as path:
        table.to_csv(path, index=False)
    with atomic_path(target) as path:
        torch.save({name: tensor.cpu().contiguous() for name, tensor in setup.model.network.state_dict().items()}, path)
    progress.unlink(missing_ok=True)
    print(table.to_string(index=False, float_format="%.4f"))
    print(f"written to {target}; use it with model.checkpoint={target}")
    return target


def parse_prune(composed: DictConfig) -> PruneConfig:
    """The checked configuration.

    Raises:
        BnrecalError: naming the first value out of range.
    """
    config = parse(composed, PruneConfig)
    own = config.prune
    for key, value in (("sparsity", own.sparsity), ("step", own.step)):
        if not 0 < value < 1:
            raise BnrecalError(f"prune.{key}={value}: choose a share above 0 and below 1")
    if own.epochs < 0 or own.batch_size < 2:
        raise BnrecalError(f"prune.epochs={own.epochs}, prune.batch_size={own.batch_size}: at least 0 and at least 2")
    if own.learning_rate <= 0 or own.weight_decay < 0 or not 0 <= own.momentum < 1:
        raise BnrecalError(
            f"prune.learning_rate={own.learning_rate}, prune.weight_decay={own.weight_decay}, "
            f"prune.momentum={own.momentum}: a rate above 0, a decay of at least 0, a momentum within 0..1"
        )
    return config


if __name__ == "__main__":
    main()
