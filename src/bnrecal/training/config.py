"""Settings of pruning and retraining."""

from dataclasses import dataclass

from bnrecal.config import setting
from bnrecal.errors import BnrecalError

SMALLEST_STEP = 0.001


@dataclass
class Pruning:
    """The sparsity, its steps, and the retraining after each (the authors' values for ResNet-18)."""

    sparsity: float = setting(0.4, "share of each layer's weights that is zero at the end")
    step: float = setting(0.1, "share that each step adds")
    epochs: int = setting(5, "of retraining after each step")
    learning_rate: float = setting(1e-4, "of stochastic gradient descent, constant")
    weight_decay: float = setting(1e-4, "of all weights")
    momentum: float = setting(0.9, "of stochastic gradient descent")
    batch_size: int = setting(128, "images per step of retraining")


def check_pruning(own: Pruning) -> None:
    """Raise BnrecalError at the first value out of range."""
    for key, value in (("sparsity", own.sparsity), ("step", own.step)):
        if not 0 < value < 1:
            raise BnrecalError(f"prune.{key}={value}: choose a share above 0 and below 1")
    if own.step < SMALLEST_STEP:
        raise BnrecalError(
            f"prune.step={own.step}: every step is followed by retraining; choose {SMALLEST_STEP} or more"
        )
    if own.epochs < 0 or own.batch_size < 2:
        raise BnrecalError(f"prune.epochs={own.epochs}, prune.batch_size={own.batch_size}: at least 0 and at least 2")
    if own.learning_rate <= 0 or own.weight_decay < 0 or not 0 <= own.momentum < 1:
        raise BnrecalError(
            f"prune.learning_rate={own.learning_rate}, prune.weight_decay={own.weight_decay}, "
            f"prune.momentum={own.momentum}: a rate above 0, a decay of at least 0, a momentum within 0..1"
        )
