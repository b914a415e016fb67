"""Calibration: what each convolution gets to see on training images, in the float32 network."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.finite import check_images
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.quantization.intercept import ConvCall, attached, conv_modules, no_stray_convolutions


@dataclass
class ConvInfo:
    """One convolution over the calibration images. Shapes are without the batch; ranges in activation units.

    Attributes:
        name: the module's name in the network.
        order: position of its first call among all convolutions, 0 for the first.
        weight: float32 (O, C/groups, kh, kw), as it reached the product (some modules standardise it first).
        macs: multiply-accumulates for one image, all calls together.
        calls: how often one forward calls it.
        minimum: the smallest input value over all images; maximum: the largest.
        mean_max: mean over images of each image's largest input value; mean_abs: of its largest magnitude.
    """

    name: str
    order: int
    weight: Tensor
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    geometry: Geometry
    macs: int = 0
    calls: int = 0
    images: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    sum_max: float = field(default=0.0, repr=False)
    sum_abs: float = field(default=0.0, repr=False)

    @property
    def negative(self) -> bool:
        """True if the input went below zero, so that it has no unsigned form."""
        return self.minimum < 0

    @property
    def depthwise(self) -> bool:
        """True with one input channel a group and more than one group."""
        return self.geometry.groups > 1 and self.weight.shape[1] == 1

    def range(self, act_range: str) -> float:
        """Return the representable range: `act_range` is "mean_max" or "max"."""
        if act_range == "max":
            return max(self.maximum, -self.minimum) if self.negative else max(self.maximum, 0.0)
        return (self.sum_abs if self.negative else self.sum_max) / self.images


class _Observer:
    """The handler of one convolution: computes it in float32 and keeps the extremes of its input."""

    def __init__(self, name: str, next_order: Callable[[], int]) -> None:
        self.name = name
        self.next_order = next_order
        self.info: ConvInfo | None = None
        self.largest: Tensor | None = None  # (N,) of the running forward, over its calls
        self.smallest: Tensor | None = None

    def __call__(self, call: ConvCall) -> Tensor:
        output = call.run()
        if self.info is None:
            self.info = _first_sight(self.name, self.next_order(), call, output)
        if self.info.images == 0:
            self.info.calls += 1
            self.info.macs += output[0].numel() * call.weight[0].numel()
        smallest, largest = torch.aminmax(call.x.flatten(1), dim=1)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        self.smallest = smallest if self.smallest is None else torch.minimum(self.smallest, smallest)
        return output

    def end_batch(self) -> None:
        if self.info is None or self.largest is None or self.smallest is None:
            return
        if not (torch.isfinite(self.largest).all() and torch.isfinite(self.smallest).all()):
            raise BnrecalError(f"the input of convolution {self.name} is not finite in float32: check the weights")
        info = self.info
        info.images += len(self.largest)
        info.maximum = max(info.maximum, float(self.largest.max()))
        info.minimum = min(info.minimum, float(self.smallest.min()))
        info.sum_max += float(self.largest.double().clamp(min=0).sum())
        info.sum_abs += float(torch.maximum(self.largest, -self.smallest).double().sum())
        self.largest = self.smallest = None


def _first_sight(name: str, order: int, call: ConvCall, output: Tensor) -> ConvInfo:
    c, h, w = call.x.shape[1:]
    o, oh, ow = output.shape[1:]
    weight = call.weight.detach()
    return ConvInfo(name, order, weight, (c, h, w), (o, oh, ow), call.geometry)


@torch.no_grad()
def calibrate(
    network: nn.Module, batches: Iterable[Tensor], *, keep_float: Callable[[str], bool] = lambda _: False
) -> list[ConvInfo]:
    """Run the float32 network over the calibration images and note every convolution it calls.

    Args:
        network: in eval mode; unchanged afterwards.
        batches: float32 (N, 3, H, W), on the network's device.
        keep_float: names that need no quantized form: of these a forward may call `conv2d` any number of times, and
            only these may be convolutions of another kind.

    Returns:
        One `ConvInfo` for each convolution that was called, in the order of the first calls.

    Raises:
        BnrecalError: for a convolution that cannot be quantized, images or an input that are not finite, a batch
            without images, a network without convolutions.
    """
    order = iter(range(1 << 30))
    observers = {name: _Observer(name, lambda: next(order)) for name in conv_modules(network)}
    answered = attached(network, dict(observers), strict=lambda name: not keep_float(name))
    with answered, no_stray_convolutions(network, keep_float):
        for number, batch in enumerate(batches, start=1):
            check_images(batch, f"calibration batch {number}")
            network(batch)  # `ConvCall.run` computes every convolution
            for observer in observers.values():
                observer.end_batch()
    infos = [observer.info for observer in observers.values() if observer.info is not None and observer.info.images]
    if not infos:
        raise BnrecalError("the network called no convolution on the calibration images: nothing to quantize")
    return sorted(infos, key=lambda info: info.order)
