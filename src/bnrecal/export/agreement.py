"""Does a folded network answer like the one it was made from?"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.float_conv import forward

MOST_DIFFERENT = 1e-3  # share of images that may be classified differently: last-bit differences of float32


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same images.

    Attributes:
        equal: images that both put into the same class.
        top1, folded_top1: images that the original and the folded network get right.
    """

    images: int = 0
    equal: int = 0
    top1: int = 0
    folded_top1: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.images + other.images,
            self.equal + other.equal,
            self.top1 + other.top1,
            self.folded_top1 + other.folded_top1,
        )

    def percent(self, images: int) -> float:
        """A count as a share of all images in percent."""
        return 100 * images / self.images


@torch.no_grad()
def compare(
    pairs: dict[str, tuple[nn.Module, nn.Module]], batches: Iterable[tuple[Tensor, Tensor]], label_offset: int
) -> dict[str, Agreement]:
    """Run pairs of an original and a folded network over the images, in one pass.

    Args:
        pairs: networks that return logits (N, classes), by name.
        batches: float32 images (N, 3, H, W) and int64 labels (N,); label -1 marks an unreadable image.
        label_offset: logit index of label 0.

    Raises:
        BnrecalError: without a readable image.
    """
    total = dict.fromkeys(pairs, Agreement())
    for images, labels in batches:
        readable = labels >= 0
        kept, truth = images[readable], labels[readable] + label_offset
        for name, (original, folded) in pairs.items():
            one = forward(original, kept).argmax(1)
            other = forward(folded, kept).argmax(1)
            counts = (one == other, one == truth, other == truth)
            total[name] += Agreement(len(kept), *(int(count.sum()) for count in counts))
    if any(agreement.images == 0 for agreement in total.values()):
        raise BnrecalError("there was no readable validation image: check data.root and data.val_images")
    return total


def check_agreement(name: str, agreement: Agreement) -> None:
    """Raise BnrecalError where more than MOST_DIFFERENT of the images, and more than one, change their class."""
    different = agreement.images - agreement.equal
    if different > max(1, MOST_DIFFERENT * agreement.images):
        raise BnrecalError(
            f"the folded {name} network puts {different} of {agreement.images} images into another class than the "
            "unfolded one: nothing is exported"
        )
