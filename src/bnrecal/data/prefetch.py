"""Copies of batches to a GPU beside the computations with the batch before."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def copied_ahead(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches on a GPU. Each is copied from pinned memory beside the computations with the one before it."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Tensor, Tensor, torch.cuda.Event] | None = None
    for images, labels in batches:
        with torch.cuda.stream(stream):
            copy = (images.to(device, non_blocking=True), labels.to(device, non_blocking=True), stream.record_event())
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = copy
    if waiting is not None:
        yield _arrived(*waiting, device)


def _arrived(images: Tensor, labels: Tensor, event: torch.cuda.Event, device: torch.device) -> tuple[Tensor, Tensor]:
    """The copies, safe to use (and to free) in the current stream."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for tensor in (images, labels):
        tensor.record_stream(current)
    return images, labels
