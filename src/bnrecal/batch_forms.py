"""Batches in the forms that people have them in, as float32 images and whole class numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bnrecal.errors import BnrecalError

# Images; a tuple that begins with them and their labels; a mapping of pixel_values and labels.
Batch = Tensor | Sequence[Any] | Mapping[str, Any]


def images_of(batches: Iterable[Batch], device: torch.device) -> Iterator[Tensor]:
    """Yield the images of each batch, on the device.

    Raises:
        BnrecalError: if there is no batch, or one is not float32 (N, C, H, W), N above 0.
    """
    count = 0
    for batch in batches:
        images = _checked(_parts(batch)[0])
        count += len(images)
        yield images.to(device)
    if count == 0:
        raise BnrecalError("there was no batch of images: a generator gives its batches only once")


def labelled(
    batches: Iterable[Sequence[Any] | Mapping[str, Any]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images and labels of each batch, on the device."""
    for batch in batches:
        given, labels = _parts(batch)
        images = _checked(given)
        yield images.to(device), _class_numbers(labels, len(images)).to(device)


def _parts(batch: object) -> tuple[object, object]:
    """Images and labels of a batch; None for labels that it does not have."""
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        if "pixel_values" not in batch:
            raise BnrecalError(f"a batch has {', '.join(map(str, batch))}: give images as pixel_values, and labels")
        return batch["pixel_values"], batch.get("labels")
    if isinstance(batch, Sequence) and len(batch) > 0 and not isinstance(batch, str):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


def _class_numbers(labels: object, images: int) -> Tensor:
    """Return labels as int64 (N,), if they are whole numbers from 0, one an image."""
    if labels is None:
        raise BnrecalError("a batch has no labels: give pairs of images and labels, or pixel_values and labels")
    try:
        numbers = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BnrecalError(f"labels are {type(labels).__name__}: give one class number an image") from error
    whole = not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)
    if not whole or numbers.shape != (images,):
        kind = f"{str(numbers.dtype).removeprefix('torch.')} {tuple(numbers.shape)}"
        raise BnrecalError(f"labels are {kind} for {images} images: give one class number an image, int64 ({images},)")
    if int(numbers.min()) < 0:
        raise BnrecalError(
            f"a label is {int(numbers.min())}, which is no class (test splits have -1 for labels that are secret): "
            "give labelled images"
        )
    return numbers.long()


def _checked(images: object) -> Tensor:
    """Return the images of a batch, if they are that."""
    if not isinstance(images, Tensor) or images.dim() != 4 or images.dtype != torch.float32:
        kind = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise BnrecalError(f"a batch is {kind}: give float32 images (N, C, H, W), or pairs that begin with them")
    if len(images) == 0:
        raise BnrecalError(f"a batch has no images, {tuple(images.shape)}: leave it out")
    return images
