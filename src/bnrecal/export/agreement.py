"""Does a folded network answer like the one it was made from?"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from operator import add

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.export.last_bits import last_bit_noise
from bnrecal.nbsmt.float_conv import forward

MOST_DIFFERENT = 1e-3  # share of images that may be classified differently: last-bit differences of float32
# Folding moves numbers by several last bits: so many times as many predictions may differ as one last bit changes.
NOISE_FACTOR = 4


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same images.

    Attributes:
        equal: images that both put into the same class.
        top1, folded_top1: images that the original and the folded network get right.
        noisy: images that the original puts into another class with one last bit of noise after BatchNorm.
    """

    images: int = 0
    equal: int = 0
    top1: int = 0
    folded_top1: int = 0
    noisy: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(*map(add, astuple(self), astuple(other)))

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
    """
    total = dict.fromkeys(pairs, Agreement())
    for number, (images, labels) in enumerate(batches):
        readable = labels >= 0
        kept, truth = images[readable], labels[readable] + label_offset
        for name, (original, folded) in pairs.items():
            one = forward(original, kept).argmax(1)
            other = forward(folded, kept).argmax(1)
            with last_bit_noise(original, seed=number):
                noisy = forward(original, kept).argmax(1)
            counts = (one == other, one == truth, other == truth, noisy != one)
            total[name] += Agreement(len(kept), *(int(count.sum()) for count in counts))
    if any(agreement.images == 0 for agreement in total.values()):
        raise BnrecalError("there was no readable validation image: check data.root and data.val_images")
    return total


def check_agreement(name: str, agreement: Agreement) -> None:
    """Raise BnrecalError where more images change their class than rounding explains.

    That is MOST_DIFFERENT of the images, at least one, and NOISE_FACTOR times those that change it by one last bit of
    noise.
    """
    different = agreement.images - agreement.equal
    if different > max(1, MOST_DIFFERENT * agreement.images) + NOISE_FACTOR * agreement.noisy:
        raise BnrecalError(
            f"the folded {name} network puts {different} of {agreement.images} images into another class than the "
            f"unfolded one, where one last bit of noise after BatchNorm changes {agreement.noisy}: nothing is exported"
        )
