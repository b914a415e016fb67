"""Top-1 and top-5 of several networks in one pass over the images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.evaluation.standard_error import of_share
from bnrecal.nbsmt.finite import check_images
from bnrecal.network_forms import logits_of
from bnrecal.quantization.shared import EvaluatedNetworks

K = TypeVar("K")
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Correctness:
    """The images that one network got right, in evaluation order, so that networks can be compared in pairs.

    Attributes:
        top1, top5: bool (images,), the label is the highest logit / among the five highest.
        restricted: bool (images,), the label is the highest logit among the classes that occur; None where all do.
        skipped: images that could not be read (label -1), in none of the arrays.
    """

    top1: Bools
    top5: Bools
    restricted: Bools | None = None
    skipped: int = 0

    @property
    def images(self) -> int:
        return len(self.top1)


def percent(right: Bools) -> float:
    """Share of True in percent."""
    return 100.0 * float(np.mean(right))


def standard_error(right: Bools) -> float:
    """Binomial standard error of `percent(right)`, in percentage points."""
    return 100.0 * of_share(float(np.mean(right)), len(right))


def concatenate(parts: Sequence[Correctness]) -> Correctness:
    """The outcome over the images of all parts, in their order."""
    restricted = [p.restricted for p in parts if p.restricted is not None]
    return Correctness(
        np.concatenate([p.top1 for p in parts]),
        np.concatenate([p.top5 for p in parts]),
        np.concatenate(restricted) if restricted else None,
        sum(p.skipped for p in parts),
    )


@torch.no_grad()
def evaluate(
    networks: dict[K, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    label_offset: int = 0,
    restricted_classes: Sequence[int] | None = None,
) -> dict[K, Correctness]:
    """Classify the same batches with every network.

    Args:
        networks: by any key that reads well in a message; in eval mode, on the batches' device, returning logits
            (N, classes), alone or as `network_forms.logits_of` finds them.
        batches: float32 images (N, 3, H, W) and int64 labels (N,); label -1 marks an unreadable image.
        label_offset: logit index of label 0.
        restricted_classes: labels for the second, restricted top-1.

    Raises:
        BnrecalError: for images that are not finite, naming the batch; for logits that are not finite or have too few
            classes, naming the network; without images.
    """
    if not networks:
        return {}
    parts: dict[K, list[Correctness]] = {name: [] for name in networks}
    together = EvaluatedNetworks(networks)
    for number, (images, labels) in enumerate(batches, start=1):
        readable = labels >= 0
        kept = images[readable] if not bool(readable.all()) else images
        if len(kept):
            check_images(kept, f"validation batch {number}")
        for name, output in together(kept):
            logits = _logits(name, output, label_offset, labels)
            outcome = _judge(logits, labels[readable], label_offset, restricted_classes)
            parts[name].append(Correctness(*outcome, skipped=int((~readable).sum())))
    result = {name: concatenate(outcomes) for name, outcomes in parts.items() if outcomes}
    if not result or next(iter(result.values())).images == 0:
        raise BnrecalError("there was no readable validation image: check data.root and data.val_images")
    return result


def _logits(name: object, output: object, offset: int, labels: Tensor) -> Tensor:
    logits = logits_of(output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise BnrecalError(f"the network must return logits (images, classes), not {_describe(logits)}")
    if int(labels.max()) + offset >= logits.shape[1]:
        raise BnrecalError(
            f"the network has {logits.shape[1]} classes, the images have a label {int(labels.max())}: "
            "choose a model and a data set of matching classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise BnrecalError(f"the {name} network gives logits that are not finite: check the weights")
    return logits.float()


def _describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _judge(
    logits: Tensor, labels: Tensor, offset: int, classes: Sequence[int] | None
) -> tuple[Bools, Bools, Bools | None]:
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices - offset
    right = top == labels[:, None]
    restricted = None
    if classes is not None:
        columns = torch.tensor(classes, device=logits.device)
        restricted = (columns[logits[:, columns + offset].argmax(1)] == labels).cpu().numpy()
    return right[:, 0].cpu().numpy(), right.any(1).cpu().numpy(), restricted
